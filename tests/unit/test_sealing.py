"""The storage key: what is sealed opens with it alone, whole, or not at all."""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zkserve.encoding import sha256_hex
from zkserve.errors import BundleMismatch, StorageKeyWrong
from zkserve.sealing import StorageKey, development_key, new_key, read_key

KEY, OTHER = StorageKey(new_key()), StorageKey(new_key())
LARGE = os.urandom(200_000)


def sealed(data: bytes, key: StorageKey = KEY) -> bytes:
    target = io.BytesIO()
    assert key.seal(io.BytesIO(data), target) == sha256_hex(data)
    return target.getvalue()


def opened(data: bytes, expected: bytes, key: StorageKey = KEY) -> bytes:
    target = io.BytesIO()
    key.unseal(io.BytesIO(data), target, expected=sha256_hex(expected))
    return target.getvalue()


@given(data=st.binary(max_size=70_000))
@settings(max_examples=30)
def test_what_was_sealed_opens(data: bytes):
    assert opened(sealed(data), data) == data


def test_nothing_of_it_shows_and_it_never_looks_the_same_twice():
    first, second = sealed(LARGE), sealed(LARGE)
    assert first != second
    for at in range(0, len(LARGE), 1000):
        assert LARGE[at : at + 16] not in first


def test_the_standard_form_is_kept():
    """Whoever has the key opens a backup without zkserve."""
    identity = pyrage.x25519.Identity.from_str(secret := new_key().splitlines()[-1])
    assert pyrage.decrypt(sealed(b"weights", StorageKey(secret)), [identity]) == b"weights"
    assert sealed(b"weights").startswith(b"age-encryption.org/v1\n")


@pytest.mark.parametrize("data", [b"", b"an opening", LARGE], ids=len)
def test_another_key_opens_nothing_and_says_so(data: bytes):
    with pytest.raises(StorageKeyWrong, match="another storage key") as refused:
        opened(sealed(data), data, OTHER)
    assert "ZKSERVE_STORAGE_KEY" in str(refused.value)


def test_a_cut_file_is_a_mismatch():
    whole = sealed(LARGE)
    for length in {*range(0, 400, 7), *range(400, len(whole), 9973), len(whole) - 1}:
        with pytest.raises(BundleMismatch, match="altered"):
            opened(whole[:length], LARGE)


def test_a_bit_flipped_anywhere_is_noticed():
    whole = sealed(LARGE)
    for at in {*range(0, 400, 3), *range(400, len(whole), 4999), len(whole) - 1}:
        flipped = whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]
        # Of a flipped recipient line nobody can tell whether it is another key's.
        with pytest.raises((BundleMismatch, StorageKeyWrong)):
            opened(flipped, LARGE)


@pytest.mark.parametrize("added", [b"\0", b"more"])
def test_bytes_behind_the_end_are_noticed(added: bytes):
    with pytest.raises(BundleMismatch, match="altered"):
        opened(sealed(LARGE) + added, LARGE)


def test_an_exchanged_file_is_noticed():
    """Anybody who knows the public half can seal something else to it."""
    with pytest.raises(BundleMismatch, match="altered"):
        opened(sealed(b"other weights"), b"weights")


@pytest.mark.parametrize("data", [b"", b"x", LARGE], ids=len)
@pytest.mark.parametrize("room", [0, 100, 250, 8000, 150_000])
def test_a_full_disk_is_never_taken_for_success(data: bytes, room: int):
    """The library drops errors of its last write."""

    class Full(io.BytesIO):
        def write(self, block: bytes) -> int:
            if self.tell() + len(block) > room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(block)

    target = Full()
    try:
        KEY.seal(io.BytesIO(data), target)
    except OSError as exc:
        failed: int | None = exc.errno
    else:
        failed = None
        assert opened(target.getvalue(), data) == data
    assert failed in (None, errno.ENOSPC)


@pytest.mark.parametrize("failure", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt()])
def test_a_source_that_fails_fails_with_its_own_error(failure: BaseException):
    class Broken(io.BytesIO):
        def read(self, _: int | None = -1) -> bytes:
            raise failure

    for work in (
        lambda: KEY.seal(Broken(), io.BytesIO()),
        lambda: KEY.unseal(Broken(), io.BytesIO(), expected="00" * 32),
    ):
        with pytest.raises(type(failure)):
            work()


def test_of_several_keys_the_first_seals_and_each_opens():
    old, new = new_key(), new_key()
    both = StorageKey(new + old)
    assert len(both.recipients) == 2
    before = sealed(b"weights", StorageKey(old))
    assert opened(before, b"weights", both) == b"weights"
    assert opened(sealed(b"weights", both), b"weights", StorageKey(new)) == b"weights"
    assert not both.is_current(io.BytesIO(before))
    for data in (b"", b"weights", LARGE):
        assert both.is_current(io.BytesIO(sealed(data, both)))


def test_there_is_a_mac_under_each_key_that_needs_the_key():
    old, new = new_key(), new_key()
    (before,) = StorageKey(old).macs(b"an input")
    (after,) = StorageKey(new).macs(b"an input")
    assert StorageKey(new + old).macs(b"an input") == (after, before)
    (another,) = StorageKey(old).macs(b"another")
    assert len({before, after, another, sha256_hex(b"an input")}) == 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# public key: age1",
        "secret",
        "AGE-SECRET-KEY-1",
        "AGE-SECRET-KEY-1 " * 2,
        "\0",
        "age1x",
    ],
)
def test_what_is_no_key_is_refused_and_not_repeated(text: str):
    with pytest.raises(StorageKeyWrong) as refused:
        StorageKey(text)
    assert "new-key" in str(refused.value)
    secret = new_key().splitlines()[-1]
    with pytest.raises(StorageKeyWrong) as refused:
        StorageKey(secret[:-1])
    assert secret[20:50] not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_key_does_not_show_itself():
    secret = new_key()
    key = StorageKey(secret)
    assert secret.splitlines()[-1][16:] not in f"{key!r} {key} {vars(key)}"


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b""])
def test_a_key_file_that_holds_none_is_refused(content: bytes | None, tmp_path: Path):
    path = tmp_path / "storage.key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StorageKeyWrong):
        read_key(path)


@pytest.mark.parametrize(
    ("ours", "mode", "taken"),
    [
        *((True, mode, True) for mode in (0o600, 0o400)),
        *((True, mode, False) for mode in (0o640, 0o644, 0o604, 0o660, 0o602, 0o610)),
        *((False, mode, True) for mode in (0o640, 0o440, 0o600)),  # root's, for the service's group
        *((False, mode, False) for mode in (0o644, 0o444, 0o660, 0o642)),
    ],
)
def test_a_key_file_that_others_may_read_is_refused(
    ours: bool, mode: int, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "storage.key"
    path.write_text(text := new_key())
    path.chmod(mode)
    if not ours:
        monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    if taken:
        assert read_key(path).recipients == StorageKey(text).recipients
        return
    with pytest.raises(StorageKeyWrong, match=f"open to others: its mode is {mode:04o}") as refused:
        read_key(path)
    assert f"chmod 600 {path}" in str(refused.value)
    assert text.splitlines()[-1] not in str(refused.value)


def test_a_development_key_is_made_once_whoever_comes_first(tmp_path: Path):
    path = tmp_path / "data" / "storage.key"
    found: list[tuple[str, ...]] = []
    start = threading.Barrier(8)

    def make() -> None:
        start.wait()
        found.append(development_key(path).recipients)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["storage.key"]


def test_the_standard_tool_opens_what_is_sealed(tmp_path: Path):
    age = shutil.which("age")
    if age is None:
        pytest.skip("age is not installed")
    (tmp_path / "key").write_text(text := new_key())
    command = [age, "--decrypt", "--identity", str(tmp_path / "key")]
    data = sealed(LARGE, StorageKey(text))
    assert subprocess.run(command, input=data, capture_output=True, check=True).stdout == LARGE


def test_sealing_holds_no_more_than_a_block_in_memory(tmp_path: Path):
    code = """
import resource, sys
from pathlib import Path
from zkserve.sealing import StorageKey, new_key
key, at = StorageKey(new_key()), Path(sys.argv[1])
with (at / "clear").open("wb") as file:
    file.truncate(256 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with (at / "clear").open("rb") as source, (at / "sealed").open("wb") as target:
    digest = key.seal(source, target)
with (at / "sealed").open("rb") as source, (at / "again").open("wb") as target:
    key.unseal(source, target, expected=digest)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    grown_mib = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert grown_mib < 32
