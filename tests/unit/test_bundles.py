"""A folder of artifacts is a bundle of what lies there, each file the one that was pinned."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import fakes
from zkserve import verify
from zkserve.errors import BundleMismatch, NotFound
from zkserve.node import Node
from zkserve.receipt import manifest_bytes, manifest_from_dict

pytestmark = [
    pytest.mark.usefixtures("engine"),
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
]


def test_private_artifacts_beside_the_public_ones_are_read_and_compared_where_asked_for(
    node: Node, tmp_path: Path
) -> None:
    """So that an auditor who is shown them can have the circuit made again."""
    manifest = manifest_from_dict(fakes.publish(node, "shown").manifest)
    files = node.bundle(manifest).files
    folder = tmp_path / "artifacts"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(manifest_bytes(manifest))
    with pytest.raises(NotFound, match="lacks the public artifacts"):
        verify.read_bundle(folder)
    for name in manifest.public:
        (folder / name).write_bytes(files[name].read_bytes())
    assert verify.read_bundle(folder).files.keys() == manifest.public
    name = min(manifest.pins.keys() - manifest.public)
    content = files[name].read_bytes()
    (folder / name).write_bytes(content)
    assert verify.read_bundle(folder, private=True).files[name] == folder / name
    assert name not in verify.read_bundle(folder).files
    (folder / name).write_bytes(content + b"!")
    with pytest.raises(BundleMismatch, match=name):
        verify.read_bundle(folder, private=True)
