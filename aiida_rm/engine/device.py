"""Which device a task runs on, and what to tell of it."""

from __future__ import annotations

import platform
from typing import Any

import torch

from aiida_rm import __version__
from aiida_rm.engine.errors import SettingsError


def pick_device(name: str) -> torch.device:
    """The device for a setting; ``auto`` takes a GPU when torch sees one.

    Raises:
        SettingsError: ``cuda`` was asked for and torch sees none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            "'device' is 'cuda' but torch sees no GPU here; ask the scheduler for one, install "
            "a CUDA build of torch, or set 'device' to 'auto'"
        )
    return torch.device(name)


def describe_engine(device: str) -> dict[str, Any]:
    """Versions and hardware, for the results."""
    chosen = pick_device(device)
    return {
        "version": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if chosen.type == "cuda" else chosen.type,
        "threads": torch.get_num_threads(),
    }
