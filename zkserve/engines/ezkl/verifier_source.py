"""Make ezkl's generated Solidity verifier safe to call with calldata of any shape.

The generated verifier hashes the proof at the offset that the caller names, but reads points and
evaluations at fixed positions of the calldata. Whoever shifts the offset therefore picks the points
after the challenges are known, and can make it accept any instances. The patch pins the offset.
"""

from __future__ import annotations

import re

from zkserve.errors import EngineFailed

_LENGTH_CHECK = re.compile(
    r"^(?P<indent>[ \t]*)success := and\(success, eq\(0x[0-9a-f]+, proof\.length\)\)\n",
    re.MULTILINE,
)
_OFFSET_CHECK = "success := and(success, eq(proof.offset, 0x64))"


def patch(source: str) -> str:
    """Return the verifier's source with the proof pinned to where its points are read.

    The check is added right after the verifier's own check of the proof's length, which must occur
    exactly once. ``0x64`` is where the ABI puts the bytes of the first of two dynamic arguments:
    selector (4), two offsets (64), length (32).

    Raises:
        EngineFailed: ``source`` is not what the pinned engine version generates.

    """
    anchors = list(_LENGTH_CHECK.finditer(source))
    if len(anchors) != 1 or _OFFSET_CHECK in source:
        raise EngineFailed(
            f"The generated verifier has {len(anchors)} proof length checks"
            f"{' and is patched already' if _OFFSET_CHECK in source else ''}; expected exactly 1 "
            "in an unpatched source.",
            remedy="Install the ezkl version that zkserve pins and export the verifier again.",
        )
    end = anchors[0].end()
    return f"{source[:end]}{anchors[0]['indent']}{_OFFSET_CHECK}\n{source[end:]}"
