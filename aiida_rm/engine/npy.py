"""Reading one ``.npy`` file that somebody else may have written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.errors import FramesError

Array = NDArray[Any]

#: How every .npy file begins.
_MAGIC = b"\x93NUMPY"


def read_array(file: Path, mmap: bool) -> Array:
    """The array of a file; with ``mmap`` it stays on disk until used.

    Raises:
        FramesError: a link, no array, truncated, or one of objects (pickles are never loaded).
    """
    if file.is_symlink():
        raise FramesError(f"'{file.name}' is a link; frames hold plain files")
    try:
        with file.open("rb") as stream:
            # numpy would also open archives under this name.
            if stream.read(len(_MAGIC)) != _MAGIC:
                raise FramesError(f"'{file.name}' cannot be read as an array: it is none")
        if mmap and file.stat().st_size > 0:
            try:
                return np.load(file, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
            except ValueError as error:
                if "empty" not in str(error):
                    raise
        return np.load(file, allow_pickle=False)  # type: ignore[no-any-return]
    except (ValueError, OSError, EOFError, SyntaxError, MemoryError, OverflowError) as error:
        raise FramesError(f"'{file.name}' cannot be read as an array: {error}") from error
