"""Which device a task runs on, and what to tell of it."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from aiida_rm import __version__
from aiida_rm.engine.errors import SettingsError

if TYPE_CHECKING:
    import torch


def pick_device(name: str) -> torch.device:
    """The device for a setting; ``auto`` takes a GPU when torch sees one.

    Raises:
        SettingsError: ``cuda`` was asked for and torch sees none.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            "'device' is 'cuda' but torch sees no GPU here; ask the scheduler for one, install "
            "a CUDA build of torch, or set 'device' to 'auto'"
        )
    return torch.device(name)


def describe_engine(device: str) -> dict[str, Any]:
    """Versions and hardware, for the results; it does not load torch for those that had no use."""
    engine = {"version": __version__, "python": platform.python_version()}
    if "torch" not in sys.modules:
        return {**engine, "torch": version("torch"), "device": "cpu", "threads": 1}
    import torch

    chosen = pick_device(device)
    return {
        **engine,
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name() if chosen.type == "cuda" else chosen.type,
        "threads": torch.get_num_threads(),
    }
