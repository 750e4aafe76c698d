"""The data nodes, converters and calcfunctions live without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
for name in ("torch", "torch_geometric"):
    sys.modules[name] = None
import importlib
for name in {names!r}:
    importlib.import_module(name)
print("imported")
"""
NAMES = [
    "aiida_rm.data.frames",
    "aiida_rm.data.potential",
    "aiida_rm.data.training_state",
    "aiida_rm.data.safetensors_header",
    "aiida_rm.data.converters",
    "aiida_rm.data.selection",
    "aiida_rm.calculations.functions",
]


@pytest.mark.parametrize("names", [NAMES], ids=["data and functions"])
def test_import_without_torch(names, tmp_path, request):
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT.format(names=names)],
        check=False,
        capture_output=True,
        text=True,
        cwd=request.config.rootpath,
        env={"PATH": "/usr/bin:/bin", "AIIDA_PATH": str(tmp_path)},
    )
    assert result.stdout.strip() == "imported", result.stderr
