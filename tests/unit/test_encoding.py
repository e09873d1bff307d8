from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from zkserve import encoding
from zkserve.encoding import (
    CIRCUIT_TAG,
    OUTPUT_BOUND,
    bytes32,
    canonical_json,
    circuit_id,
    claim_digest,
    hex_bytes,
    identified,
    pack_outputs,
    parse_json,
    sha256_file,
    sha256_hex,
    to_hex,
)
from zkserve.errors import InvalidInput
from zkserve.types import (
    Agreement,
    CircuitManifest,
    Claim,
    InputMode,
    LeakBudget,
    Scale,
    TensorSpec,
    WeightsMode,
)

CLAIM = Claim(
    circuit_id="0x" + "11" * 32, weights="0x" + "22" * 32, input=b"\x01\x02", outputs=(76, -77)
)
MANIFEST = identified(
    CircuitManifest(
        circuit_id="",
        engine="ezkl",
        engine_version="23.0.5",
        input_mode=InputMode.COMMITTED,
        weights_mode=WeightsMode.HASHED,
        weights="0x" + "22" * 32,
        inputs=(TensorSpec(name="a", shape=(1, 2)), TensorSpec(name="b", shape=(3,))),
        output=TensorSpec(name="y", shape=(1, 2)),
        output_scale=Scale(multiplier=3, shift=8),
        pins=MappingProxyType({"compiled": "aa" * 32, "settings": "bb" * 32}),
        public=frozenset({"settings"}),
        development_srs=True,
        rows=100,
        parameters=MappingProxyType({"input_scale": 8}),
    )
)


# circuit ids

DECIDES: dict[str, list[Callable[[CircuitManifest], CircuitManifest]]] = {
    "engine": [lambda m: replace(m, engine="ezkl2")],
    "engine_version": [lambda m: replace(m, engine_version="23.0.6")],
    "input_mode": [lambda m: replace(m, input_mode=InputMode.PUBLIC)],
    "weights": [lambda m: replace(m, weights="0x" + "22" * 31 + "23")],
    "inputs": [
        lambda m: replace(m, inputs=m.inputs[::-1]),
        lambda m: replace(m, inputs=m.inputs[:1]),
        lambda m: replace(m, inputs=(replace(m.inputs[0], name="c"), m.inputs[1])),
        lambda m: replace(m, inputs=(replace(m.inputs[0], shape=(2, 1)), m.inputs[1])),
        lambda m: replace(m, inputs=(replace(m.inputs[0], shape=(2,)), m.inputs[1])),
        lambda m: replace(m, inputs=(replace(m.inputs[0], dtype="INT8"), m.inputs[1])),
    ],
    "output": [
        lambda m: replace(m, output=replace(m.output, name="z")),
        lambda m: replace(m, output=replace(m.output, shape=(2, 1))),
        lambda m: replace(m, output=replace(m.output, dtype="INT8")),
    ],
    "output_scale": [
        lambda m: replace(m, output_scale=Scale(multiplier=4, shift=8)),
        lambda m: replace(m, output_scale=Scale(multiplier=3, shift=9)),
    ],
    "pins": [
        lambda m: replace(m, pins={**m.pins, "compiled": "ab" * 32}),
        lambda m: replace(m, pins={**m.pins, "more": "aa" * 32}),
        lambda m: replace(m, pins={"settings": m.pins["settings"]}),
        lambda m: replace(m, pins={}),
        lambda m: replace(m, pins={"compiled": "bb" * 32, "settings": "aa" * 32}),
    ],
    "development_srs": [lambda m: replace(m, development_srs=False)],
    "parameters": [
        lambda m: replace(m, parameters={"input_scale": 9}),
        lambda m: replace(m, parameters={}),
        lambda m: replace(m, parameters={**m.parameters, "proof_bytes": 8}),
    ],
}
DECIDES_NOTHING: dict[str, Callable[[CircuitManifest], CircuitManifest]] = {
    "circuit_id": lambda m: replace(m, circuit_id="0x" + "00" * 32),
    "public": lambda m: replace(m, public=frozenset()),
    "rows": lambda m: replace(m, rows=101),
    "facts": lambda m: replace(m, facts={"setup_s": 1.5}),
    "agreement": lambda m: replace(
        m, agreement=Agreement(samples=1, max_abs=0.5, mean_abs=0.5, top1=1.0)
    ),
    "leak": lambda m: replace(m, leak=LeakBudget(bits_per_proof=254, secret_bits=4096, proofs=4)),
}


def test_each_field_of_a_manifest_either_decides_or_does_not():
    # One weights mode exists; that it goes in is shown by the layout below.
    covered = DECIDES.keys() | DECIDES_NOTHING.keys() | {"weights_mode"}
    assert covered == {field.name for field in fields(CircuitManifest)}


@pytest.mark.parametrize("name", DECIDES)
def test_circuit_id_changes_with_what_decides(name: str):
    ids = [circuit_id(change(MANIFEST)) for change in DECIDES[name]]
    assert len({MANIFEST.circuit_id, *ids}) == len(ids) + 1


@pytest.mark.parametrize("name", DECIDES_NOTHING)
def test_circuit_id_does_not_change_with_what_decides_nothing(name: str):
    changed = DECIDES_NOTHING[name](MANIFEST)
    assert changed != MANIFEST
    assert circuit_id(changed) == MANIFEST.circuit_id


def test_circuit_id_does_not_depend_on_the_order_of_pins_and_parameters():
    pins = dict(reversed(MANIFEST.pins.items()))
    assert circuit_id(replace(MANIFEST, pins=pins)) == MANIFEST.circuit_id
    one = replace(MANIFEST, parameters={"a": 1, "b": 2})
    assert circuit_id(one) == circuit_id(replace(one, parameters={"b": 2, "a": 1}))


def test_circuit_id_has_the_layout_its_docstring_states():
    interface = (
        b'{"inputs":[{"dtype":"FP32","name":"a","shape":[1,2]},'
        b'{"dtype":"FP32","name":"b","shape":[3]}],'
        b'"output":{"dtype":"FP32","name":"y","shape":[1,2]},'
        b'"parameters":{"input_scale":8}}'
    )
    parts = [
        b"ezkl",
        b"23.0.5",
        b"committed",
        b"hashed",
        b"\x22" * 32,
        (3).to_bytes(8, "big"),
        b"\x08",
        b"\x01",
        interface,
        b"compiled",
        b"\xaa" * 32,
        b"settings",
        b"\xbb" * 32,
    ]
    layout = CIRCUIT_TAG + b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    assert MANIFEST.circuit_id == "0x" + hashlib.sha256(layout).hexdigest()


@given(text=st.text(min_size=2, max_size=12), data=st.data())
def test_moving_characters_between_neighbouring_parts_changes_the_circuit_id(
    text: str, data: st.DataObject
):
    cuts = st.integers(min_value=0, max_value=len(text))
    one, other = data.draw(cuts), data.draw(cuts)

    def cut(at: int) -> str:
        return circuit_id(replace(MANIFEST, engine=text[:at], engine_version=text[at:]))

    assert (cut(one) == cut(other)) == (one == other)


@given(text=st.text(min_size=2, max_size=12), data=st.data())
def test_moving_characters_between_tensors_changes_the_circuit_id(text: str, data: st.DataObject):
    cuts = st.integers(min_value=0, max_value=len(text))
    one, other = data.draw(cuts), data.draw(cuts)

    def cut(at: int) -> str:
        first, second = MANIFEST.inputs
        inputs = (replace(first, name=text[:at]), replace(second, name=text[at:]))
        return circuit_id(replace(MANIFEST, inputs=inputs))

    assert (cut(one) == cut(other)) == (one == other)


def test_a_tensor_moved_from_inputs_to_output_changes_the_circuit_id():
    first, second = MANIFEST.inputs
    one = replace(MANIFEST, inputs=(first,), output=second)
    other = replace(MANIFEST, inputs=(second,), output=first)
    assert circuit_id(one) != circuit_id(other)


# claim digests


def test_claim_digest_is_the_worked_example():
    expected = keccak(
        encode(
            ["bytes32"] * 5,
            [
                keccak(text="zkserve/claim/v1"),
                b"\x11" * 32,
                b"\x22" * 32,
                keccak(b"\x01\x02"),
                keccak((76).to_bytes(32, "big") + (2**256 - 77).to_bytes(32, "big")),
            ],
        )
    )
    assert claim_digest(CLAIM) == "0x" + expected.hex()


outputs = st.lists(
    st.integers(min_value=1 - OUTPUT_BOUND, max_value=OUTPUT_BOUND - 1), max_size=4
).map(tuple)


@given(one=outputs, other=outputs)
def test_outputs_pack_injectively(one: tuple[int, ...], other: tuple[int, ...]):
    assert (pack_outputs(one) == pack_outputs(other)) == (one == other)
    words = pack_outputs(one)
    read = [int.from_bytes(words[i : i + 32], "big", signed=True) for i in range(0, len(words), 32)]
    assert tuple(read) == one


@given(data=st.binary(min_size=1, max_size=64), values=outputs)
def test_claim_digest_separates_input_and_outputs(data: bytes, values: tuple[int, ...]):
    one = replace(CLAIM, input=data, outputs=values)
    moved = replace(one, input=data + pack_outputs(values), outputs=())
    assert (claim_digest(one) == claim_digest(moved)) == (not values)
    assert claim_digest(one) != claim_digest(replace(one, input=data[:-1]))
    assert claim_digest(one) != claim_digest(replace(one, outputs=(*values, 0)))


@pytest.mark.parametrize("value", [OUTPUT_BOUND, -OUTPUT_BOUND, OUTPUT_BOUND + 1, 1 << 255])
def test_outputs_at_the_bound_are_refused(value: int):
    with pytest.raises(InvalidInput, match="outside"):
        pack_outputs([0, value])


@pytest.mark.parametrize("value", [OUTPUT_BOUND - 1, 1 - OUTPUT_BOUND])
def test_outputs_just_within_the_bound_pack(value: int):
    assert int.from_bytes(pack_outputs([value]), "big", signed=True) == value


# hex


@given(data=st.binary(max_size=80))
def test_hex_round_trips(data: bytes):
    assert hex_bytes(to_hex(data)) == data


NOT_HEX = [
    "",
    "0",
    "00",
    "x00",
    "0X00",
    "0x0",
    "0xAB",
    "0xg0",
    "0x 0",
    "0x00 ",
    " 0x00",
    "0x00\n",
    "0x0_00",
    "-0x00",
    "0x\u0660\u0660",
]


@pytest.mark.parametrize("value", NOT_HEX)
def test_hex_of_another_form_is_refused(value: str):
    with pytest.raises(InvalidInput):
        hex_bytes(value)


@pytest.mark.parametrize(
    "value", [*NOT_HEX, "0x", "0x" + "0" * 63, "0x" + "0" * 65, "0x" + "0" * 66, "0x" + "A" * 64]
)
def test_words_of_another_form_are_refused(value: str):
    with pytest.raises(InvalidInput):
        bytes32(value)


def test_a_refusal_does_not_repeat_all_of_a_long_value():
    with pytest.raises(InvalidInput) as refused:
        hex_bytes("0x" + "Z" * 100_000)
    assert len(str(refused.value)) < 300


# JSON

trees = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False).filter(lambda value: abs(value) != float("inf")),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=4), children, max_size=4)
    ),
    max_leaves=12,
)


@given(tree=trees)
def test_canonical_json_round_trips(tree: object):
    assert parse_json(canonical_json(tree)) == tree


@given(pairs=st.dictionaries(st.text(max_size=4), st.integers(), max_size=6))
def test_canonical_json_does_not_depend_on_order(pairs: dict[str, int]):
    assert canonical_json(dict(reversed(pairs.items()))) == canonical_json(pairs)


def test_canonical_json_is_compact_sorted_utf8():
    assert (
        canonical_json({"b": [1, -0.5, None], "a": "é"}) == '{"a":"é","b":[1,-0.5,null]}'.encode()
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_canonical_json_refuses_what_json_lacks(value: object):
    with pytest.raises(ValueError):
        canonical_json(value)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"{",
        b"[1,]",
        b"01",
        b"+1",
        b"'a'",
        b"{a:1}",
        b"1 2",
        b"NaN",
        b"-Infinity",
        b"[NaN]",
        b"1e400",
        b'{"a": [-1e999]}',
        b"\xff",
        b'"\\ud800"',
        b'"\n"',
        b"9" * 5000,
        b"// note\n1",
    ],
)
def test_what_is_not_json_is_refused(text: bytes):
    with pytest.raises(ValueError):
        parse_json(text)


_DEEP = """
import sys
from zkserve.encoding import parse_json
sys.setrecursionlimit(100_000)
for deep in ("[" * 100_000 + "]" * 100_000, "[" * 100_000, '{"a":' * 100_000 + "1"):
    try:
        parse_json(deep)
    except ValueError:
        print("refused")
"""


def test_deep_nesting_is_refused_where_pythons_own_limit_was_raised():
    child = subprocess.run(
        [sys.executable, "-c", _DEEP], capture_output=True, text=True, check=False
    )
    assert (child.returncode, child.stdout.split()) == (0, ["refused"] * 3), child.stderr


def test_file_digest_is_that_of_its_bytes(tmp_path: Path):
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == sha256_hex(data) == hashlib.sha256(data).hexdigest()


def test_tags_are_digests_of_what_they_say():
    assert keccak(text="zkserve/claim/v1") == encoding.CLAIM_TAG
    assert keccak(text="zkserve/native/context/v1") == encoding.CONTEXT_TAG
    assert encoding.keccak(b"") == keccak(b"")
