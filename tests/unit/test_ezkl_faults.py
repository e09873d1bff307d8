"""Operators that ezkl takes and gets wrong are refused before it sees them; no others are."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest
from onnx import helper

from tests.ezkl_graphs import IMAGE, RIGHT, WRONG, OneOperator, image
from zkserve.engines.ezkl import faults
from zkserve.engines.onnx_model import OPERATORS
from zkserve.errors import ModelRejected


def saved(one: OneOperator, folder: Path) -> Path:
    path = folder / "m.onnx"
    onnx.save(one.model(), path)
    return path


@pytest.mark.parametrize("name", WRONG)
def test_what_is_silently_wrong_is_refused_by_name(name: str, tmp_path: Path):
    with pytest.raises(ModelRejected, match=re.split("[ ,]", name)[0]) as refused:
        faults.load(saved(WRONG[name], tmp_path))
    assert refused.value.remedy


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_let_in(name: str, tmp_path: Path):
    faults.load(saved(RIGHT[name], tmp_path))


def test_every_operator_that_compares_or_selects_has_been_shown_to_be_right():
    shown = {node.op_type for one in RIGHT.values() for node in one.nodes}
    selecting = {"Abs", "And", "ArgMax", "Cast", "Gather", "GatherElements", "Greater"}
    selecting |= {"GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Split", "Where", "Xor"}
    assert selecting <= shown
    assert selecting <= OPERATORS


def test_an_operator_is_wrong_in_any_form_or_let_in_and_shown_to_be_wrong_still():
    assert not OPERATORS & faults.OPERATORS.keys()
    shown = {node.op_type for one in WRONG.values() for node in one.nodes} - OPERATORS
    assert faults.OPERATORS.keys() == shown


@pytest.mark.parametrize("kind", ["AveragePool", "MaxPool"])
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_padding_that_the_shapes_decide_is_padding(kind: str, auto_pad: str, tmp_path: Path):
    pool = helper.make_node(kind, ["x"], ["y"], kernel_shape=[3, 3], auto_pad=auto_pad)
    with pytest.raises(ModelRejected, match=kind):
        faults.load(saved(image(pool, shape=IMAGE), tmp_path))
