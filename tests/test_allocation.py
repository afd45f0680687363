"""Freed memory stays with the process, so that the system need not clear it again."""

import ctypes
import os
import subprocess
import sys

import pytest

from stakes.runs.allocation import keep_freed_memory

GLIBC = os.name == "posix" and hasattr(ctypes.CDLL(None), "mallopt")
FAULTS = """
import ctypes, resource
from stakes.runs.allocation import keep_freed_memory
libc, size = ctypes.CDLL(None), 40 * 2**20
def fill():  # as PyTorch allocates a tensor of 10,240 pages
    block = ctypes.c_void_p()
    assert libc.posix_memalign(ctypes.byref(block), 64, ctypes.c_size_t(size)) == 0
    ctypes.memset(block, 1, size)
    libc.free(block)
if {keep}:
    assert keep_freed_memory({{}})
for _ in range(10):
    fill()  # until it finds room
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


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
