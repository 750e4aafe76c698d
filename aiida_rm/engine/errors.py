"""Errors of the engine. Each carries a code, which the AiiDA side maps to an exit code."""

from __future__ import annotations

import errno
import re

#: What takes less memory, by task.
_LESS_MEMORY = {
    "perturb": "take fewer 'samples' or smaller cells (also by 'min_atoms'), or set 'match' to "
    "false",
    "train": "lower 'batch_atoms', or raise 'batch_parts'",
    "generate": "lower 'batch_atoms'",
    "score": "lower 'processes', or score fewer structures at once",
    "relax": "give fewer or smaller structures, also by 'min_atoms'",
    "doctor": "end what else runs there",
}


class EngineError(Exception):
    """Something a user can mend. The message names the culprit and the remedy."""

    code = "internal"


class SettingsError(EngineError):
    """A setting is unknown, of the wrong type, or out of its range."""

    code = "bad_settings"


class FramesError(EngineError):
    """A set of structures cannot be read, or is unphysical (NaN, overlap, missing cell)."""

    code = "bad_frames"


class PotentialError(EngineError):
    """A potential file cannot be read, or does not fit the task (an element it never saw)."""

    code = "bad_potential"


class StateError(EngineError):
    """A training state cannot be read, or belongs to another training."""

    code = "bad_state"


class SearchError(EngineError):
    """No sensible random structure exists for what was asked (too dense, too small a box)."""

    code = "bad_search"


class DivergenceError(EngineError):
    """The training loss became NaN or infinite."""

    code = "diverged"


class OutOfMemoryError(EngineError):
    """The device cannot hold one batch."""

    code = "out_of_memory"


class DiskError(EngineError):
    """A result could not be written (disk full, no permission)."""

    code = "disk"


def brief(value: object, length: int = 300) -> str:
    """The text of a value or an error, not more of it than a message can bear."""
    text = str(value) if isinstance(value, Exception) else repr(value)
    return text if len(text) <= length else f"{text[:length]}..."


def first_line(error: Exception, length: int = 160) -> str:
    """Kind and first line of somebody else's error, without colours and the like."""
    lines = str(error).strip().splitlines() or [""]
    plain = "".join(c for c in re.sub(r"\x1b\[[0-9;]*m", "", lines[0]) if c.isprintable())
    return f"{type(error).__name__}: {plain[:length]}".rstrip(": .")


def recognise(error: Exception, task: str = "train") -> EngineError | None:
    """An error that can be mended, also one that reaches us as somebody else's exception.

    Args:
        error: as it was caught.
        task: whose knobs the remedy names.
    """
    if isinstance(error, EngineError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return DiskError(f"the disk of the job is full or read-only ({error}); free some space")
    # torch raises this wherever the training happens to be.
    if str(error).startswith("DataLoader worker"):
        return EngineError(
            "a worker process ended unexpectedly (killed, for lack of memory?); lower 'workers' or "
            "ask for more memory"
        )
    text = str(error).lower()
    # What torch says of a GPU, of a processor, and of a GPU's libraries (cuBLAS, cuSOLVER).
    said = ("out of memory", "can't allocate memory", "_status_alloc_failed")
    if isinstance(error, MemoryError) or any(words in text for words in said):
        return OutOfMemoryError(
            f"the memory does not suffice ({error}); {_LESS_MEMORY[task]}, or ask for more memory"
        )
    return None


def by_code(code: str, message: str) -> EngineError:
    """The error of a code, as another process reported it."""
    kinds = {kind.code: kind for kind in EngineError.__subclasses__()}
    return kinds.get(code, EngineError)(message)
