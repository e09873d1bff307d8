"""Rows of several tensors, joined to the one array of a batch."""

from __future__ import annotations

import numpy as np
import pytest

from zkserve.api import tensors
from zkserve.api.schemas import InferTensor
from zkserve.engines.agreement import join_samples
from zkserve.errors import InvalidInput
from zkserve.types import TensorSpec

BATCH = 3
SPECS = [TensorSpec(name="a", shape=(BATCH, 1, 2)), TensorSpec(name="b", shape=(BATCH,))]


def given(name: str, *shape: int) -> InferTensor:
    data = list(range(int(np.prod(shape))))
    return InferTensor(name=name, shape=list(shape), datatype="FP32", data=data)


def test_a_batch_is_joined_tensor_after_tensor_and_filled_with_its_last_row():
    found = tensors.join(SPECS, [given("b", 2), given("a", 2, 1, 2)], BATCH)
    rows = np.array([[0, 1, 0], [2, 3, 1], [2, 3, 1]], dtype=np.float32)
    np.testing.assert_array_equal(found, join_samples(SPECS, rows))
    assert found.dtype == np.float32


def test_inputs_of_different_numbers_of_rows_are_refused():
    with pytest.raises(InvalidInput, match="different numbers of rows"):
        tensors.join(SPECS, [given("a", 2, 1, 2), given("b", 3)], BATCH)


@pytest.mark.parametrize("shape", [(4, 1, 2), (2, 2), (2, 1, 1, 2), (2, 1, 2, 1), (3, 2)])
def test_other_shapes_are_refused(shape: tuple[int, ...]):
    with pytest.raises(InvalidInput, match="rows"):
        tensors.rows_of(SPECS, [given("a", *shape), given("b", 2)], BATCH)
