"""What a number was measured on, told without naming the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("dbos", "ezkl", "fastapi", "numpy", "onnx", "onnxruntime", "torch", "uvicorn", "web3")


def describe() -> dict[str, Any]:
    """Return date, hardware, operating system and versions."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "gpu": None,
        },
        "software": {
            "os": f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.machine()}",
            "python": platform.python_version(),
        }
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
