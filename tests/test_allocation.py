"""Freed memory stays with the process, so that the system need not clear it again."""

import ctypes
import os
import subprocess
import sys

import pytest

from stakes.runs.allocation import keep_freed_memory

GLIBC = os.name == "posix" and hasattr(ctypes.CDLL(None), "mallopt")
FAULTS = """
import resource
import torch
from stakes.runs.allocation import keep_freed_memory
if {keep}:
    assert keep_freed_memory({{}})
for _ in range(10):
    torch.zeros(10 * 2**20)  # until it finds room
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.zeros(10 * 2**20)  # 40 MiB: 10,240 pages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not GLIBC, reason="another C library")
def test_large_blocks_are_cleared_once():
    def faults(keep: bool) -> int:
        words = [sys.executable, "-c", FAULTS.format(keep=keep)]
        plain = {name: v for name, v in os.environ.items() if not name.startswith("MALLOC_")}
        ended = subprocess.run(words, capture_output=True, text=True, check=True, env=plain)
        return int(ended.stdout)

    assert faults(keep=True) < 1000
    assert faults(keep=False) > 4 * 10240


def test_who_chooses_an_allocator_keeps_it():
    assert not keep_freed_memory({"MALLOC_ARENA_MAX": "2"})
    assert not keep_freed_memory({"LD_PRELOAD": "libjemalloc.so"})
