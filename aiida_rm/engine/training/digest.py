"""What a training state belongs to; without torch, so that it is known at submission, too."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.settings import TrainSettings, to_plain

#: Knobs that may change between segments of one training.
_FREE_KNOBS = (
    "device",
    "threads",
    "workers",
    "compile",
    "checkpoint_seconds",
    "batch_parts",
    "environments",
)
#: Why a state is refused, and the remedy.
OTHER_TRAINING = (
    "the training state belongs to another training; resume with the very frames and settings "
    f"it came from ({', '.join(_FREE_KNOBS)} may differ)"
)


def training_digest(frames: Frames, settings: TrainSettings) -> str:
    """SHA-256 of all data and of every knob that shapes the result, in hexadecimal digits."""
    knobs = {k: v for k, v in to_plain(settings).items() if k not in _FREE_KNOBS}
    if settings.draw == "stored":
        del knobs["recipe"]
    digest = hashlib.sha256(json.dumps(knobs, sort_keys=True).encode())
    for name, array in sorted(frames.to_arrays().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
