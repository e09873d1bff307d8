from __future__ import annotations

import json
import re
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import zkserve.receipt
from zkserve.encoding import OUTPUT_BOUND, canonical_json, claim_digest, identified, parse_json
from zkserve.errors import BundleMismatch, InvalidInput, ProofInvalid
from zkserve.receipt import (
    claim_from_dict,
    claim_to_dict,
    manifest_bytes,
    manifest_from_dict,
    manifest_to_dict,
    receipt_from_dict,
    receipt_to_dict,
)
from zkserve.types import (
    Agreement,
    CircuitManifest,
    Claim,
    InputMode,
    LeakBudget,
    Receipt,
    Scale,
    Settlement,
    TensorSpec,
    WeightsMode,
)

words = st.binary(min_size=32, max_size=32).map(lambda data: "0x" + data.hex())
digests = words.map(lambda word: word[2:])
names = st.text(min_size=1, max_size=10)
counts = st.integers(min_value=0, max_value=2**63)
reals = st.floats(allow_nan=False, allow_infinity=False)
scales = st.builds(
    Scale, multiplier=st.integers(1, 2**64 - 1), shift=st.integers(min_value=0, max_value=127)
)
claims = st.builds(
    Claim,
    circuit_id=words,
    weights=words,
    input=st.binary(max_size=64),
    outputs=st.lists(st.integers(1 - OUTPUT_BOUND, OUTPUT_BOUND - 1), max_size=4).map(tuple),
)
addresses = st.binary(min_size=20, max_size=20).map(lambda data: "0x" + data.hex())
settlements = st.builds(
    Settlement,
    chain_id=counts,
    registry=addresses,
    market=addresses,
    verifier=addresses,
    version_id=st.integers(0, 2**256 - 1),
    request_id=counts,
    transaction=words,
    block=counts,
    gas=counts,
    callback_ok=st.booleans(),
)
receipts = st.builds(
    Receipt,
    claim=claims,
    proof=st.binary(max_size=64),
    engine=names,
    engine_version=names,
    model=names,
    version=st.integers(1, 2**31),
    output_scale=scales,
    development_srs=st.booleans(),
    settlement=st.none() | settlements,
)
tensors = st.builds(
    TensorSpec,
    name=names,
    shape=st.lists(st.integers(1, 2**31), max_size=4).map(tuple),
    dtype=names,
)
agreements = st.builds(
    Agreement,
    samples=counts,
    max_abs=reals,
    mean_abs=reals,
    top1=reals,
    float_accuracy=st.none() | reals,
    circuit_accuracy=st.none() | reals,
)


budgets = st.builds(
    LeakBudget, bits_per_proof=st.integers(min_value=1), secret_bits=counts, proofs=counts
)


@st.composite
def manifests(draw: st.DrawFn) -> CircuitManifest:
    pins = draw(st.dictionaries(names, digests, max_size=4))
    weights_mode = draw(st.sampled_from(WeightsMode))
    public = draw(st.sets(st.sampled_from(sorted(pins)))) if pins else set()
    return identified(
        CircuitManifest(
            circuit_id="",
            engine=draw(names),
            engine_version=draw(names),
            input_mode=draw(st.sampled_from(InputMode)),
            weights_mode=weights_mode,
            weights=draw(words),
            inputs=tuple(draw(st.lists(tensors, max_size=3))),
            output=draw(tensors),
            output_scale=draw(scales),
            pins=MappingProxyType(pins),
            public=frozenset(public),
            development_srs=draw(st.booleans()),
            rows=draw(counts),
            parameters=MappingProxyType(draw(st.dictionaries(names, st.integers(), max_size=3))),
            facts=MappingProxyType(
                draw(st.dictionaries(names, st.integers() | reals | names, max_size=3))
            ),
            agreement=draw(st.none() | agreements),
            leak=draw(budgets) if weights_mode.leaks else None,
        )
    )


def through_json(data: dict[str, Any]) -> Any:
    return parse_json(canonical_json(data))


@given(manifest=manifests().filter(lambda manifest: manifest.weights_mode.leaks))
def test_a_manifest_of_a_leaking_mode_states_a_budget(manifest: CircuitManifest):
    data = manifest_to_dict(manifest)
    assert manifest_from_dict(data).leak == manifest.leak
    del data["leak"]
    with pytest.raises(BundleMismatch, match="budget"):
        manifest_from_dict(data)


@given(claim=claims)
def test_claims_round_trip(claim: Claim):
    assert claim_from_dict(through_json(claim_to_dict(claim))) == claim


@given(receipt=receipts)
def test_receipts_round_trip(receipt: Receipt):
    assert receipt_from_dict(through_json(receipt_to_dict(receipt))) == receipt


@given(manifest=manifests())
def test_manifests_round_trip(manifest: CircuitManifest):
    data = through_json(manifest_to_dict(manifest))
    assert manifest_from_dict(data) == manifest
    assert manifest_bytes(manifest_from_dict(data)) == manifest_bytes(manifest)


RECEIPT = receipt_to_dict(
    Receipt(
        claim=Claim(
            circuit_id="0x" + "1a" * 32,
            weights="0x" + "2b" * 32,
            input=b"\x0a\x0b",
            outputs=(76, -77),
        ),
        proof=b"\xcd" * 8,
        engine="ezkl",
        engine_version="23.0.5",
        model="breast_cancer",
        version=1,
        output_scale=Scale(multiplier=1, shift=8),
        development_srs=True,
        settlement=Settlement(
            chain_id=31337,
            registry="0x" + "Aa" * 20,
            market="0x" + "Bb" * 20,
            verifier="0x" + "33" * 20,
            version_id=2**255 + 3,
            request_id=4,
            transaction="0x" + "5c" * 32,
            block=6,
            gas=700_000,
            callback_ok=True,
        ),
    )
)
MANIFEST = manifest_to_dict(
    identified(
        CircuitManifest(
            circuit_id="",
            engine="ezkl",
            engine_version="23.0.5",
            input_mode=InputMode.COMMITTED,
            weights_mode=WeightsMode.HASHED,
            weights="0x" + "2b" * 32,
            inputs=(TensorSpec(name="x", shape=(1, 4)),),
            output=TensorSpec(name="y", shape=(1, 2)),
            output_scale=Scale(multiplier=1, shift=8),
            pins={"compiled": "aa" * 32, "settings": "bb" * 32},
            public=frozenset({"settings"}),
            development_srs=True,
            rows=100,
            parameters={"input_scale": 8},
            facts={"setup_s": 1.5},
            agreement=Agreement(samples=9, max_abs=0.5, mean_abs=0.25, top1=1.0),
        )
    )
)


def test_the_docstrings_example_is_of_this_form():
    text = re.split(r"::\n\n", zkserve.receipt.__doc__ or "")[1]
    example = json.loads(text)
    plain = receipt_to_dict(replace(receipt_from_dict(RECEIPT), settlement=None))
    assert example.keys() == plain.keys()
    assert example["claim"].keys() == plain["claim"].keys()
    for name in ("values", "engine", "model", "output_scale", "development_srs", "settlement"):
        assert example[name] == plain[name]
    assert example["claim"]["outputs"] == plain["claim"]["outputs"]


def altered(data: Any, path: tuple[str | int, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(data))
    place = copy
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return copy


def removed(data: Any, path: tuple[str | int, ...]) -> Any:
    copy = json.loads(json.dumps(data))
    place = copy
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    return copy


def paths(data: Any, prefix: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return where every key of a JSON object is, however deep."""
    if isinstance(data, dict):
        own = [(*prefix, key) for key in data]
        return own + [path for key in data for path in paths(data[key], (*prefix, key))]
    if isinstance(data, list):
        return [path for i, value in enumerate(data) for path in paths(value, (*prefix, i))]
    return []


def objects(data: Any) -> list[tuple[str | int, ...]]:
    return sorted({path[:-1] for path in paths(data)}, key=str)


def named(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path)) or "top"


FREE = {("pins",), ("parameters",), ("facts",)}
"""Objects of a manifest whose keys are the engine's affair."""


@pytest.mark.parametrize("path", paths(RECEIPT), ids=named)
def test_a_receipt_without_any_one_field_is_refused(path: tuple[str | int, ...]):
    with pytest.raises(InvalidInput, match=str(path[-1])):
        receipt_from_dict(removed(RECEIPT, path))


@pytest.mark.parametrize("path", objects(RECEIPT), ids=named)
def test_a_receipt_with_an_unknown_field_is_refused(path: tuple[str | int, ...]):
    with pytest.raises(InvalidInput, match="surprise"):
        receipt_from_dict(altered(RECEIPT, (*path, "surprise"), 1))


@pytest.mark.parametrize(
    "path", [path for path in paths(MANIFEST) if path[:1] not in FREE or len(path) == 1], ids=named
)
def test_a_manifest_without_any_one_field_is_refused(path: tuple[str | int, ...]):
    with pytest.raises(InvalidInput, match=str(path[-1])):
        manifest_from_dict(removed(MANIFEST, path))


@pytest.mark.parametrize(
    "path", [path for path in objects(MANIFEST) if path not in FREE], ids=named
)
def test_a_manifest_with_an_unknown_field_is_refused(path: tuple[str | int, ...]):
    with pytest.raises(InvalidInput, match="surprise"):
        manifest_from_dict(altered(MANIFEST, (*path, "surprise"), 1))


WORD = RECEIPT["claim"]["circuit_id"]
ALIASES: list[tuple[tuple[str | int, ...], Any]] = [
    *(
        (path, value)
        for path in [
            ("claim", "circuit_id"),
            ("claim", "weights"),
            ("claim_digest",),
            ("settlement", "transaction"),
            ("settlement", "version_id"),
        ]
        for value in (WORD.upper(), WORD[2:], WORD[:-1], WORD + "0", WORD + "\n", " " + WORD, 1)
    ),
    *(
        (path, value)
        for path in [("proof",), ("claim", "input")]
        for value in ("0xCD", "0xc", "cd", "0XCD", "0xcd\n", "0xcd 0", "", None, 5)
    ),
    *(
        (("claim", "outputs", 0), value)
        for value in (
            "076",
            "+76",
            "-0",
            "-076",
            "",
            "-",
            "76.0",
            "7_6",
            "7e1",
            " 76",
            "76\n",
            "0x4c",
            "\u0667\u0666",
            str(OUTPUT_BOUND),
            str(-OUTPUT_BOUND),
            "2" * 39,
            "1" * 5000,
            76,
            76.0,
            None,
            True,
        )
    ),
    (("claim", "outputs"), "76"),
    (("claim", "outputs"), {"0": "76"}),
    (("claim",), None),
    (("values",), ["0.296875", "-0.30078125"]),
    (("values",), [None, None]),
    (("format",), "zkserve/receipt/v2"),
    (("format",), "ZKSERVE/RECEIPT/V1"),
    *((("development_srs",), value) for value in (1, "true", "yes", None)),
    *((("settlement", "callback_ok"), value) for value in (1, "true", None)),
    *((("model", "version"), value) for value in (0, -1, "1", 1.0, True, None)),
    *((("output_scale", "shift"), value) for value in (-1, 128, "8", 8.0, None)),
    *((("output_scale", "multiplier"), value) for value in (0, 1 << 64, "1", True, None)),
    *((("settlement", name), -1) for name in ("chain_id", "request_id", "block", "gas")),
    *((("settlement", name), "1") for name in ("chain_id", "request_id", "block", "gas")),
    *((("settlement", "registry"), value) for value in ("", "0x" + "a" * 39, "0x" + "g" * 40)),
    (("settlement",), {}),
    (("settlement",), []),
    (("engine",), "ezkl"),
    (("engine", "name"), b"ezkl"),
    (("engine", "version"), 23),
]


@pytest.mark.parametrize(("path", "value"), ALIASES)
def test_a_receipt_has_one_spelling(path: tuple[str | int, ...], value: Any):
    data = json.loads(json.dumps(RECEIPT))
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(InvalidInput):
        receipt_from_dict(data)


@pytest.mark.parametrize("value", [OUTPUT_BOUND - 1, 1 - OUTPUT_BOUND])
def test_outputs_just_within_the_bound_are_read(value: int):
    data = altered(RECEIPT["claim"], ("outputs", 0), str(value))
    assert claim_from_dict(data).outputs[0] == value


@pytest.mark.parametrize("data", [{}, {"claim": {}}, [], None, "receipt", 5])
def test_what_is_no_receipt_at_all_is_refused(data: Any):
    for read in (receipt_from_dict, manifest_from_dict, claim_from_dict):
        with pytest.raises(InvalidInput) as refused:
            read(data)
        assert refused.value.remedy


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("claim_digest",), "0x" + "00" * 32),
        (("values",), []),
        (("values",), [0.296875]),
        (("values",), [-0.30078125, 0.296875]),
        (("values",), [0.296875, -0.30078125, 0.0]),
        (("values", 0), 0.3),
        (("claim", "circuit_id"), "0x" + "00" * 32),
        (("claim", "weights"), "0x" + "00" * 32),
        (("claim", "input"), "0x0a"),
        (("claim", "outputs"), ["77", "-77"]),
        (("claim", "outputs"), ["76"]),
        (("output_scale", "shift"), 9),
        (("output_scale", "multiplier"), 2),
    ],
)
def test_a_receipt_that_contradicts_itself_is_refused(path: tuple[str | int, ...], value: Any):
    with pytest.raises(ProofInvalid, match="not follow from"):
        receipt_from_dict(altered(RECEIPT, path, value))


@given(claim=claims, receipt=receipts)
def test_a_receipt_cannot_carry_the_digest_of_another_claim(claim: Claim, receipt: Receipt):
    data = receipt_to_dict(receipt) | {"claim_digest": claim_digest(claim)}
    if claim == receipt.claim:
        assert receipt_from_dict(data) == receipt
    else:
        with pytest.raises(ProofInvalid):
            receipt_from_dict(data)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("circuit_id",), "0x" + "00" * 32),
        (("engine", "name"), "other"),
        (("engine", "version"), "23.0.6"),
        (("input_mode",), "public"),
        (("weights",), "0x" + "00" * 32),
        (("inputs", 0, "name"), "z"),
        (("inputs", 0, "shape"), [4]),
        (("inputs", 0, "dtype"), "INT8"),
        (("inputs",), []),
        (("output", "name"), "z"),
        (("output", "shape"), [2, 1]),
        (("output_scale", "multiplier"), 2),
        (("output_scale", "shift"), 9),
        (("pins", "compiled"), "cc" * 32),
        (("pins", "more"), "cc" * 32),
        (("development_srs",), False),
        (("parameters", "input_scale"), 9),
        (("parameters", "more"), 9),
        (("public",), ["unheard_of"]),
        (("public",), ["settings", "unheard_of"]),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(path: tuple[str | int, ...], value: Any):
    with pytest.raises(BundleMismatch):
        manifest_from_dict(altered(MANIFEST, path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("weights_mode",), "private"),
        (("input_mode",), "COMMITTED"),
        (("input_mode",), "hidden"),
        (("pins", "compiled"), "AA" * 32),
        (("pins", "compiled"), "0x" + "aa" * 32),
        (("pins", "compiled"), "aa" * 31),
        (("inputs", 0, "shape"), [1, 0]),
        (("inputs", 0, "shape"), [-1, 4]),
        (("inputs", 0, "shape"), ["1", "4"]),
        (("inputs", 0, "shape"), [1.0, 4.0]),
        (("output", "shape"), [None, 2]),
        (("rows",), "100"),
        (("rows",), None),
        (("development_srs",), "true"),
        (("parameters", "input_scale"), "8"),
        (("parameters", "input_scale"), True),
        (("parameters", "input_scale"), 8.0),
        (("facts", "setup_s"), None),
        (("facts", "setup_s"), float("nan")),
        (("agreement", "max_abs"), float("nan")),
        (("agreement", "max_abs"), float("inf")),
        (("agreement", "max_abs"), "0.5"),
        (("agreement",), {}),
        (("public",), "settings"),
    ],
)
def test_a_manifest_has_one_spelling(path: tuple[str | int, ...], value: Any):
    with pytest.raises(InvalidInput):
        manifest_from_dict(altered(MANIFEST, path, value))


def test_a_refusal_says_where_and_what_to_do():
    with pytest.raises(InvalidInput) as refused:
        receipt_from_dict(altered(RECEIPT, ("claim", "outputs", 1), "-0"))
    assert "receipt is malformed at claim.outputs.1" in refused.value.message
    assert refused.value.remedy
