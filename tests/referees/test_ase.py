"""Any ASE calculator as a referee: one real job of the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase.build import bulk, molecule

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.converters import from_ase
from aiida_rm.workflows.judge import JudgeWorkChain
from tests.workflows.conftest import engine_code  # noqa: F401 - a fixture

EMT = {"calculator": "ase.calculators.emt:EMT", "cell": "free", "fmax": 0.01}


def metals() -> FramesData:
    strained, alloy, foreign = bulk("Cu", a=3.8), bulk("Cu", cubic=True), bulk("Fe")
    alloy.numbers[0] = 79
    return FramesData(from_ase([strained, foreign, alloy, molecule("CO")]))


def test_metals_by_emt(engine_code: Any, judge: Any) -> None:  # noqa: F811
    given = metals()
    found, frames, node = judge(frames=given, referee="ase", code=engine_code, settings=EMT)
    assert node.is_finished_ok
    assert found["row"].tolist() == [0, 1, 2, 3]
    verdicts = found["verdict"].tolist()
    assert [verdict == "converged" for verdict in verdicts] == [True, False, True, True]
    assert "NotImplementedError: No EMT-potential for Fe; is it made for" in verdicts[1]
    assert np.isfinite(found["energy_per_atom"]).tolist() == [True, False, True, True]
    assert found["rmsd"][0] == pytest.approx(0, abs=1e-6)  # one atom cannot move
    assert frames.volumes[0] < given.get_frames().volumes[0]
    (job,) = [one for one in node.called if isinstance(one, orm.CalcJobNode)]
    assert job.process_type == "aiida.calculations:rm.relax"
    assert job.inputs.frames.uuid == given.uuid
    assert job.outputs.results["summary"] == {"n_structures": 4, "converged": 3, "failed": 1}


def test_a_calculator_that_is_not_installed(engine_code: Any, judge: Any) -> None:  # noqa: F811
    settings = {"calculator": "no.such:Potential"}
    found, _, node = judge(frames=metals(), referee="ase", code=engine_code, settings=settings)
    assert node.exit_status == 704
    for verdict in found["verdict"]:
        assert verdict.startswith("failed: the job ended with [201]")
        assert "cannot be imported" in verdict
        assert "installed where the engine runs" in verdict


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "'calculator' is '', not 'package.module:Class'"),
        ({"calculator": "emt"}, "'calculator' is 'emt', not 'package"),
        ({**EMT, "cell": "loose"}, "'cell' is 'loose', must be one of"),
        ({"calculator": "tblite.ase:TBLite", "min_atoms": 2}, "Gamma point alone"),
    ],
)
def test_refused_at_submission(make_code: Any, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        run_get_node(
            JudgeWorkChain,
            frames=metals(),
            referee="ase",
            code=make_code("/bin/true"),
            settings=settings,
        )


def test_xtb_and_tblite_agree(engine_code: Any, xtb_code: Any, judge: Any) -> None:  # noqa: F811
    """The same method by two programs, one after the other on the same set."""
    pytest.importorskip("tblite")
    given = FramesData(from_ase([molecule("H2O")]))
    found, frames, _ = judge(
        frames=given, referee="xtb", code=xtb_code, settings={"level": "tight"}
    )
    tblite = {
        "calculator": "tblite.ase:TBLite",
        "arguments": {"method": "GFN2-xTB", "verbosity": 0},
        "fmax": 0.005,
    }
    other, both, _ = judge(
        frames=FramesData(frames),
        referee="ase",
        label="tblite",
        code=engine_code,
        settings=tblite,
    )
    assert other["energy"][0] == pytest.approx(found["energy"][0], abs=1e-3)
    assert {"xtb_verdict", "tblite_verdict"} <= set(both.structure)
