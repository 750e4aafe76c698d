"""Fixtures for all tests: an empty AiiDA profile, one diamond, and the nodes made of it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before numpy: on small matrices its threads wait for each other, for seconds on a busy machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
from ase.build import bulk
from safetensors.numpy import save_file

from aiida_rm.engine.frames import Frames

# Before AiiDA is imported: the tests never see, nor make, a configuration of the user.
_HOME = tempfile.TemporaryDirectory(prefix="aiida-rm-tests-", ignore_cleanup_errors=True)
os.environ["AIIDA_PATH"] = _HOME.name

pytest_plugins = "aiida.tools.pytest_fixtures"

POTENTIAL_HEADER = {
    "schema": 1,
    "kind": "potential",
    "architecture": "local",
    "elements": ["C"],
    "cutoff": 4.5,
    "n_parameters": 12,
    "dtype": "float32",
    "hyperparameters": {"channels": 8, "hidden": [24, 12]},
    "core": {"scale": 0.5, "strength": 1.0},
    "elemental_volumes": {"C": 5.67},
    "composition": {"C": 1.0},
    "training": {"epochs": 3, "force_error": 0.125},
}
STATE_HEADER = {
    "schema": 1,
    "kind": "training_state",
    "epoch": 12,
    "step": 3400,
    "digest": "0123456789abcdef" * 4,
}


#: Folders whose tests make nodes.
