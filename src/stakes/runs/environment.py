"""Where a run took place: machine, versions, memory."""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch

from stakes.training import distributed
from stakes.training.devices import device_name, most_held

PACKAGES = ("stakes", "torch", "torchvision", "timm", "numpy", "safetensors")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, hardware and date: what a number needs to be repeated."""
    return {
        **_versions(),
        "version_python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "accelerator": device_name(device),
        "cpu": _cpu(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),  # it changes the bits
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": distributed.count(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def peak_memory_mb(device: torch.device) -> float:
    """Most memory held at once, in MiB: of the process, or of the accelerator where one is used."""
    if device.type != "cpu":
        return most_held(device) / 2**20
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 2**20
    import resource  # only here: not every system has it

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


@cache
def _versions() -> Mapping[str, str]:
    """Of what is loaded, so that asking once a process is right; it reads many files."""
    return {f"version_{name}": importlib.metadata.version(name) for name in PACKAGES}


@cache
def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
