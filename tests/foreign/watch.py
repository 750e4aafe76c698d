"""What no reader of foreign files may do: unpickle, run, leave the folder, fill the memory."""

from __future__ import annotations

import contextlib
import os
import resource
import site
import sys
import sysconfig
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_FORBIDDEN = (
    "pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen",
    "socket.connect", "marshal.loads", "ctypes.dlopen", "shutil.unpack_archive",
)  # fmt: skip
_CODE = tuple(
    os.path.realpath(path)
    for path in (
        sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), *site.getsitepackages(),
        str(Path(__file__).parents[2]), "/proc", "/sys", "/dev", "/usr/share/zoneinfo",
    )
)  # fmt: skip

_watching: list[list[str]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event in _FORBIDDEN and not _importing():
        _watching[-1].append(f"{event} {arguments!r:.200}")
    elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if "outside" in Path(path).name or not path.startswith((_ROOT, *_CODE)):
            _watching[-1].append(f"open {path}")


def _importing() -> bool:
    """Whether a module is being imported, which unmarshals code of ours."""
    frame = sys._getframe(2)
    while frame is not None:
        if "importlib" in frame.f_code.co_filename:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


_ROOT = os.path.realpath(tempfile.gettempdir())
sys.addaudithook(_hook)


@contextlib.contextmanager
def watched(limit: int) -> Iterator[None]:
    """Nothing forbidden happens within, nor more memory than ``limit`` bytes at a time."""
    seen: list[str] = []
    tracemalloc.start()
    _watching.append(seen)
    try:
        yield
    finally:
        _watching.pop()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert not seen, seen
    assert peak < limit, f"{peak / 1e6:.1f} MB"


def peak_memory() -> int:
    """Bytes that this process ever held, libraries included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
