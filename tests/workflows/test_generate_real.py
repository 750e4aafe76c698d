"""A real search through AiiDA that a committee judges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from aiida.engine import run_get_node

from aiida_rm.calculations.functions import select_frames
from aiida_rm.data.potential import PotentialData
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.response import perturb
from aiida_rm.engine.settings import PerturbSettings, TrainSettings, parse_settings
from aiida_rm.engine.training.trainer import Trainer
from aiida_rm.workflows.generate import GenerateWorkChain
from tests.workflows.conftest import TINY


def test_every_structure_comes_with_its_uncertainty(
    engine_code: Any, diamond_frames: Frames, tmp_path: Path
) -> None:
    frames = perturb(diamond_frames, parse_settings(PerturbSettings, TINY["perturb"]))
    potentials = []
    for seed in range(3):
        settings = parse_settings(TrainSettings, {**TINY["train"], "seed": seed})
        Trainer(frames, settings).run().potential.save(tmp_path / "one.safetensors")
        potentials.append(PotentialData(tmp_path / "one.safetensors").store())
    builder = GenerateWorkChain.get_builder_from_protocol(
        engine_code,
        potentials[0],
        overrides={"n_jobs": 2, "generate": {"settings": TINY["generate"]}},
        committee=potentials[1:],
    )
    results, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    made = results["frames"].get_frames()
    values = made.structure["uncertainty"]
    np.testing.assert_array_equal(np.isfinite(values), np.isfinite(made.structure["energy"]))
    largest = [made[row].atom["force_deviation"].max() for row in range(len(made))]
    np.testing.assert_array_equal(values, largest)
    for said in results["results"].values():
        assert said["summary"]["committee"]["potentials"] == 3
    bound = float(np.nanmedian(values))
    chosen, _ = select_frames.run_get_node(results["frames"], {"max_uncertainty": bound})
    assert 0 < len(chosen) < len(made)
