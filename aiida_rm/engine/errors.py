"""Errors of the engine. Each carries a code, which the AiiDA side maps to an exit code."""

from __future__ import annotations


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
