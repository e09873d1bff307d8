"""SRS files of the native engine: made, checked, taken over from ceremonies, and refused."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from eth_utils.crypto import keccak

from zkserve.engines.native import core
from zkserve.engines.native.protocol import curve

P, Q = curve.ORDER, curve.FIELD
SECRET = 0x1234567890ABCDEF1234567890ABCDEF
HEAD = 144

pytestmark = pytest.mark.skipif(not core.available(), reason="the core is not compiled here")


def g1(scalar: int) -> bytes:
    return core.load().g1_multiply(curve.g1_to_bytes((1, 2)), (scalar % P).to_bytes(32, "big"))


def g2(scalar: int) -> bytes:
    module = core.load()
    return module.g2_multiply(module.g2_generator(), (scalar % P).to_bytes(32, "big"))


def srs_file(
    path: Path, scalars: list[int], *, second: int = SECRET, development: int = 0, points: int = 0
) -> Path:
    head = b"ZKSRS001" + (points or len(scalars)).to_bytes(4, "big") + bytes([development, 0, 0, 0])
    path.write_bytes(head + g2(second) + b"".join(g1(scalar) for scalar in scalars))
    return path


def powers(n: int, secret: int = SECRET) -> list[int]:
    return [pow(secret, i, P) for i in range(n)]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return srs_file(tmp_path / "good.srs", powers(9))


# The engine's own file


def test_a_generated_srs_is_checked_marked_and_never_the_same(tmp_path: Path) -> None:
    module, paths = core.load(), [tmp_path / "a.srs", tmp_path / "b.srs"]
    for path in paths:
        module.srs_generate(str(path), 2100, 2)
        module.srs_check(str(path), 0, 2)
    a, b = (module.Srs(str(path), 2100) for path in paths)
    assert a.development
    assert a.size == 2100
    assert a.digest != b.digest
    assert a.point(0) == curve.g1_to_bytes((1, 2))


def test_the_digest_is_the_protocols(good: Path) -> None:
    srs = core.load().Srs(str(good), 4)
    assert srs.size == 4
    assert not srs.development
    assert srs.g2_s == g2(SECRET)
    assert srs.point(3) == g1(SECRET**3)
    label = keccak(b"zkserve/native/srs/v1")
    assert srs.digest == keccak(label + srs.point(1) + srs.g2_s)
    with pytest.raises(IndexError):
        srs.point(4)


def test_consecutive_powers_pass(good: Path) -> None:
    core.load().srs_check(str(good), 0)
    core.load().srs_check(str(good), 2)


@pytest.mark.parametrize(
    ("scalars", "second"),
    [
        (powers(8), SECRET + 1),
        ([*powers(8)[:-1], 5], SECRET),
        ([1, SECRET, SECRET**2 + 1, SECRET**3, SECRET**4], SECRET),
        ([1, SECRET, SECRET**3, SECRET**2], SECRET),
        ([1, SECRET + 1, SECRET**2], SECRET),
        ([1, P - SECRET], SECRET),
    ],
    ids=["another [s]_2", "a wrong last", "a wrong middle", "swapped", "a wrong [s]_1", "minus s"],
)
def test_points_that_are_no_powers_are_found(
    tmp_path: Path, scalars: list[int], second: int
) -> None:
    path = srs_file(tmp_path / "bad.srs", scalars, second=second)
    with pytest.raises(ValueError, match="consecutive powers"):
        core.load().srs_check(str(path), 0)


def _edit(at: int, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + new + data[at + len(new) :]


REFUSED = {
    "another magic": (_edit(0, b"ZKSRS002"), "not an SRS file"),
    "an unknown mark": (_edit(12, b"\x02"), "malformed head"),
    "a byte that must be zero": (_edit(15, b"\x01"), "malformed head"),
    "cut": (lambda data: data[:-1], "as long as its head says"),
    "too long": (lambda data: data + b"\x00", "as long as its head says"),
    "no head": (lambda data: data[:100], "truncated"),
    "empty": (lambda _: b"", "truncated"),
    "[s]_2 off the curve": (_edit(16 + 127, b"\x00"), r"\[s\]_2"),
    "[s]_2 infinity": (_edit(16, bytes(128)), r"\[s\]_2"),
    "no generator in front": (lambda d: d[:HEAD] + g1(2) + d[HEAD + 64 :], "generator"),
    "infinity": (_edit(HEAD + 3 * 64, bytes(64)), "at power 3"),
    "off the curve": (_edit(HEAD + 4 * 64 + 63, b"\x01"), "at power 4"),
    "not canonical": (
        lambda d: d[: HEAD + 64] + (1 + Q).to_bytes(32, "big") + d[HEAD + 96 :],
        "at power 1",
    ),
}


@pytest.mark.parametrize(("edit", "message"), REFUSED.values(), ids=REFUSED)
def test_files_that_are_refused(good: Path, edit: Callable[[bytes], bytes], message: str) -> None:
    good.write_bytes(edit(good.read_bytes()))
    for use in (core.load().Srs, core.load().srs_check):
        with pytest.raises(ValueError, match=message):
            use(str(good), 0)


def test_more_points_than_there_are_is_an_error(good: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds 9 points, needed are 10"):
        core.load().Srs(str(good), 10)
    with pytest.raises(ValueError, match="needed are 1"):
        core.load().Srs(str(good), 1)
    with pytest.raises(ValueError, match="cannot be read"):
        core.load().Srs(str(tmp_path / "none.srs"), 2)
    with pytest.raises(ValueError, match="at least two"):
        core.load().srs_generate(str(tmp_path / "one.srs"), 1)
    with pytest.raises(RuntimeError, match="cannot be written"):
        core.load().srs_generate(str(tmp_path / "no folder" / "a.srs"), 2)


# Ceremonies' files, as snarkjs writes them


def _montgomery(value: int) -> bytes:
    return (value * 2**256 % Q).to_bytes(32, "little")


def _little(words: bytes, order: tuple[int, ...]) -> bytes:
    """Turn the EVM's words of a point into a ceremony's, in another order of coordinates."""
    numbers = [int.from_bytes(words[32 * i : 32 * i + 32], "big") for i in range(len(words) // 32)]
    return b"".join(_montgomery(numbers[i]) for i in order)


def ptau_sections(power: int, scalars: list[int], seconds: list[int]) -> dict[int, bytes]:
    return {
        1: struct.pack("<I", 32) + Q.to_bytes(32, "little") + struct.pack("<II", power, power),
        2: b"".join(_little(g1(scalar), (0, 1)) for scalar in scalars),
        3: b"".join(_little(g2(scalar), (1, 0, 3, 2)) for scalar in seconds),
        7: b"contributions",
    }


def write_ptau(path: Path, sections: dict[int, bytes], *, version: int = 1) -> Path:
    body = b"".join(
        struct.pack("<IQ", kind, len(content)) + content for kind, content in sections.items()
    )
    path.write_bytes(b"ptau" + struct.pack("<II", version, len(sections)) + body)
    return path


@pytest.fixture
def sections() -> dict[int, bytes]:
    return ptau_sections(2, powers(7), powers(4))


def test_a_ceremonys_powers_are_taken_over(tmp_path: Path, sections: dict[int, bytes]) -> None:
    module, out = core.load(), tmp_path / "out.srs"
    source = write_ptau(tmp_path / "c.ptau", dict(reversed(sections.items())))
    module.srs_import_ptau(str(source), str(out), 5)
    assert out.read_bytes() == srs_file(tmp_path / "expected.srs", powers(5)).read_bytes()
    module.srs_check(str(out), 0)
    assert not module.Srs(str(out), 0).development


def imported(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zkserve", "srs", "import", source, out, "--log-size", "9"]
    return subprocess.run([*command, "--json"], check=False, capture_output=True, text=True)


def test_the_command_line_takes_powers_over_and_pins_them(tmp_path: Path) -> None:
    source, out = tmp_path / "c.ptau", tmp_path / "new" / "out.srs"
    write_ptau(source, ptau_sections(10, powers(2**11 - 1), powers(2**10)))
    done = imported(source, out)
    assert (done.returncode, done.stderr) == (0, "")
    said, srs = json.loads(done.stdout), core.load().Srs(str(out), 0)
    assert said == {
        "path": str(out),
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        "srs_digest": "0x" + srs.digest.hex(),
    }
    assert (srs.development, srs.point(2)) == (False, g1(SECRET**2))


def test_the_command_line_leaves_nothing_of_powers_that_are_wrong(tmp_path: Path) -> None:
    wrong = powers(2**11 - 1)
    wrong[5] += 1
    source = write_ptau(tmp_path / "c.ptau", ptau_sections(10, wrong, powers(2**10)))
    for given, code in ((source, "invalid-input"), (tmp_path / "none.ptau", "not-found")):
        done = imported(given, tmp_path / "out.srs")
        assert (done.returncode != 0, done.stderr) == (True, "")
        assert json.loads(done.stdout)["error"]["code"] == code
    assert [path.name for path in tmp_path.iterdir()] == ["c.ptau"]


def _without(kind: int) -> Callable[[dict[int, bytes]], dict[int, bytes]]:
    return lambda sections: {k: v for k, v in sections.items() if k != kind}


def _with(kind: int, make: Callable[[bytes], bytes]) -> Callable[..., dict[int, bytes]]:
    return lambda sections: {**sections, kind: make(sections[kind])}


BAD_SECTIONS = {
    "no header": (_without(1), "lacks the powers"),
    "no first group": (_without(2), "lacks the powers"),
    "no second group": (_without(3), "lacks the powers"),
    "another curve": (_with(1, _edit(4, (Q - 2).to_bytes(32, "little"))), "not for BN254"),
    "longer coordinates": (_with(1, _edit(0, struct.pack("<I", 48))), "not for BN254"),
    "an enormous power": (_with(1, _edit(36, struct.pack("<I", 60))), "wrong length"),
    "another power": (_with(1, _edit(36, struct.pack("<I", 3))), "wrong length"),
    "a point short": (_with(2, lambda data: data[:-64]), "wrong length"),
    "a tampered point": (_with(2, _edit(3 * 64, b"\x01")), "at power 3"),
    "infinity": (_with(2, _edit(2 * 64, bytes(64))), "at power 2"),
    "a wrong power": (
        lambda _: ptau_sections(2, [*powers(3), 5, *powers(3)], powers(4)),
        "consecutive powers",
    ),
    "another secret in the second group": (
        lambda _: ptau_sections(2, powers(7), powers(4, SECRET + 1)),
        "consecutive powers",
    ),
    "a tampered second group": (_with(3, _edit(128, b"\x01")), "second group at power 1"),
    "no generator": (lambda _: ptau_sections(2, [2, *powers(7)[1:]], powers(4)), "generators"),
    "a coordinate that is not canonical": (
        _with(2, _edit(64, (Q + 1).to_bytes(32, "little"))),
        "at power 1",
    ),
}


@pytest.mark.parametrize(("edit", "message"), BAD_SECTIONS.values(), ids=BAD_SECTIONS)
def test_ceremonies_that_are_refused(
    tmp_path: Path,
    sections: dict[int, bytes],
    edit: Callable[[dict[int, bytes]], dict[int, bytes]],
    message: str,
) -> None:
    source, out = write_ptau(tmp_path / "bad.ptau", edit(sections)), tmp_path / "out.srs"
    with pytest.raises(ValueError, match=message):
        core.load().srs_import_ptau(str(source), str(out), 5)
    assert not out.exists()


def test_ceremonies_cut_anywhere_are_refused(tmp_path: Path, sections: dict[int, bytes]) -> None:
    whole = write_ptau(tmp_path / "whole.ptau", sections).read_bytes()
    path, out = tmp_path / "cut.ptau", tmp_path / "out.srs"
    for length in [*range(0, 80, 3), *range(80, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"truncated|lacks|powers-of-tau"):
            core.load().srs_import_ptau(str(path), str(out), 5)


def test_files_of_another_kind_are_refused(tmp_path: Path, sections: dict[int, bytes]) -> None:
    module, out = core.load(), str(tmp_path / "out.srs")
    newer = write_ptau(tmp_path / "newer.ptau", sections, version=2)
    with pytest.raises(ValueError, match="unknown version"):
        module.srs_import_ptau(str(newer), out, 5)
    small = write_ptau(tmp_path / "small.ptau", sections)
    with pytest.raises(ValueError, match="holds 7 points, needed are 8"):
        module.srs_import_ptau(str(small), out, 8)
    twice = small.read_bytes().replace(b"\x07\x00\x00\x00\x0d", b"\x01\x00\x00\x00\x0d")
    (tmp_path / "twice.ptau").write_bytes(twice)
    with pytest.raises(ValueError, match="twice"):
        module.srs_import_ptau(str(tmp_path / "twice.ptau"), out, 5)
