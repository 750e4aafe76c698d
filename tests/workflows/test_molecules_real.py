"""Molecules through the same loop: no cell, no stress."""

from __future__ import annotations

from typing import Any

import numpy as np
from aiida.engine import run_get_node

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.workflows.loop import LoopWorkChain
from tests.workflows.conftest import TINY


def test_molecules_go_the_same_way(engine_code: Any, molecule_frames: Frames) -> None:
    generate = {
        "n_structures": 3,
        "formulas": ["H2O", "CO"],
        "box": [4.0, 4.0, 4.0],
        "device": "cpu",
        "threads": 1,
        "stages": [{"kind": "relax", "cell": "fixed", "fmax": 1e-3, "max_steps": 10}],
    }
    builder = LoopWorkChain.get_builder_from_protocol(
        engine_code,
        FramesData(molecule_frames),
        protocol="fast",
        overrides={
            "rounds": 1,
            "perturb": {"settings": TINY["perturb"]},
            "train": {"train": {"settings": TINY["train"]}},
            "generate": {"generate": {"settings": generate}},
            "validate": {"score": {"settings": TINY["score"]}, "rules": {"valid": True}},
        },
    )
    # The protocol knows what molecules need.
    assert builder.generate.generate.settings["periodic"] is False
    results, node = run_get_node(builder)
    assert node.is_finished, node.exit_message
    assert node.exit_status in (0, 703)
    scored = results["scored"]["round_01"]
    frames = scored.get_frames()
    assert set(frames.formulas()) <= {"H2O", "CO"}
    assert scored.pbc_kind == "molecule"
    assert np.isnan(frames.structure["volume_per_atom"]).all()
    assert results["potential"].elements == ["H", "C", "O"]
    assert (frames.structure["spacegroup"] == 0).all()
