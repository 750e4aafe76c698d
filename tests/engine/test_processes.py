"""Memory that the process holds on to."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

#: Takes, fills and frees 16 MB some times, and prints how many pages were fresh.
PROGRAM = """
import ctypes, resource, sys
from aiida_rm.engine.processes import hold_memory

library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
if sys.argv[1] == 'hold':
    hold_memory()

def use(size):
    place = ctypes.c_void_p(library.malloc(ctypes.c_size_t(size)))
    ctypes.memset(place, 1, size)
    library.free(place)

use(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for size in (2**24, 2**22) * 10:
    use(size)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of the GNU C library")
def test_freed_memory_is_used_again() -> None:
    fresh = {
        way: int(subprocess.check_output([sys.executable, "-c", PROGRAM, way]))
        for way in ("hold", "leave")
    }
    # A page has 4 or 64 kB; without, at least the large ones come anew every time.
    assert fresh["hold"] < 100
    assert fresh["leave"] >= fresh["hold"]
