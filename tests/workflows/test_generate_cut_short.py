"""A search whose job is killed or out of time ends with the structures of one that is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiida.engine import run_get_node

from aiida_rm.data.potential import PotentialData
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.response import perturb
from aiida_rm.engine.settings import PerturbSettings, TrainSettings, parse_settings
from aiida_rm.engine.training.trainer import Trainer
from aiida_rm.workflows.generate import GenerateWorkChain
from tests.disturbance import PENALTY
from tests.workflows.conftest import TINY


@pytest.mark.services
@pytest.mark.parametrize(("how", "status"), [("killed", 404), ("walltime", 400)])
def test_only_the_missing_structures_run_again(
    how: str,
    status: int,
    engine_code: Any,
    diamond_frames: Frames,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames = perturb(diamond_frames, parse_settings(PerturbSettings, TINY["perturb"]))
    settings = parse_settings(TrainSettings, TINY["train"])
    Trainer(frames, settings).run().potential.save(tmp_path / "one.safetensors")
    potential = PotentialData(tmp_path / "one.safetensors").store()
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))

    def search(flag: Path) -> Any:
        told = {"after": 30, "flag": str(flag), "how": how}
        knobs = {
            **TINY["generate"],
            "n_structures": 6,
            "dtype": "float64",
            "batch_atoms": 1,
            "checkpoint_seconds": 0,
            "penalty": PENALTY,
            "penalty_arguments": json.dumps(told),
        }
        builder = GenerateWorkChain.get_builder_from_protocol(
            engine_code,
            potential,
            overrides={"generate": {"settings": knobs}},
            options={"max_wallclock_seconds": 3600},
        )
        results, node = run_get_node(builder)
        assert node.is_finished_ok, node.exit_message
        return results, sorted(node.called, key=lambda one: one.pk)

    undisturbed = tmp_path / "happened before"
    undisturbed.touch()
    whole, jobs = search(undisturbed)
    assert [job.exit_status for job in jobs] == [0]
    parts, called = search(tmp_path / "happens")
    first, rest, second, _ = called
    assert (first.exit_status, second.exit_status) == (status, 0)
    there = len(first.outputs.frames)
    assert 1 <= there < 6
    assert rest.process_label == "settings_of_missing"
    assert second.inputs.settings["n_structures"] == len(second.outputs.frames) == 6 - there
    left, right = (made["frames"].base.repository.hash() for made in (whole, parts))
    assert left == right
