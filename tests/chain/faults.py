"""Stop code at any of its lines, as if the process had died there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any


class Killed(BaseException):
    """Stands for the process dying: nothing may catch it."""


@contextmanager
def killed_at_line(number: int, *modules: ModuleType) -> Iterator[None]:
    """Raise before the n-th line that the modules execute."""
    files = {module.__file__ for module in modules}
    left = number

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise Killed
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)
