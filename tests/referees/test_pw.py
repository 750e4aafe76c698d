"""pw.x through aiida-quantumespresso: the real program, and what is refused before it runs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from aiida.plugins import DataFactory
from ase.build import bulk, molecule

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.converters import from_ase
from aiida_rm.referees.pw import PwReferee
from aiida_rm.workflows.judge import JudgeWorkChain

pytest.importorskip("aiida_quantumespresso", reason="needs the extra qe")

#: Of the distribution's package: PBE, ultrasoft, cheap. The energies of diamond at 30 and 240 Ry
#: agree with those of a harder one at 50 and 400 Ry to 1 meV an atom against graphite.
PSEUDOS = Path("/usr/share/espresso/pseudo")
CARBON = "C.pbe-rrkjus.UPF"
CHEAP = {
    "protocol": "fast",
    "pseudo_family": "carbon",
    "kpoints_distance": 0.8,
    "electronic_type": "insulator",
}
BOTH = {"ecutwfc": 30, "ecutrho": 240}


@pytest.fixture
def family(aiida_profile: Any, tmp_path: Path) -> Any:
    """The family `carbon`, which recommends 30 and 240 Ry."""
    from aiida_pseudo.groups.family import CutoffsPseudoPotentialFamily

    source = PSEUDOS / CARBON
    if not source.is_file():
        pytest.skip("the pseudopotentials of quantum-espresso-data are not installed")
    found = orm.QueryBuilder().append(orm.Group, filters={"label": "carbon"}).all(flat=True)
    if found:
        return found[0]
    folder = tmp_path / "carbon"
    folder.mkdir()
    shutil.copy(source, folder)
    upf = DataFactory("pseudo.upf")
    made = CutoffsPseudoPotentialFamily.create_from_folder(folder, "carbon", pseudo_type=upf)
    made.set_cutoffs({"C": {"cutoff_wfc": 30.0, "cutoff_rho": 240.0}}, "normal", unit="Ry")
    return made


@pytest.fixture
def pw_code(make_code: Any) -> orm.InstalledCode:
    path = shutil.which("pw.x")
    if path is None:
        pytest.skip("the program pw.x is not installed; run tools/install_qe.sh")
    return make_code(path, default_calc_job_plugin="quantumespresso.pw", label="pw")


def crystals(*atoms: Any) -> FramesData:
    return FramesData(from_ase(list(atoms)))


def crushed(distance: float) -> Any:
    atoms = bulk("C", "diamond", a=3.567)
    atoms.positions[1] = [distance, 0, 0]
    return atoms


def test_diamond_relaxes_and_what_is_crushed_gets_no_job(
    pw_code: Any, family: Any, judge: Any
) -> None:
    given = crystals(bulk("C", "diamond", a=3.55), crushed(0.3))
    found, frames, node = judge(
        frames=given, referee="pw", code=pw_code, settings={**CHEAP, "first_relax": False}
    )
    assert node.is_finished_ok
    assert found["verdict"][0] == "converged"
    assert found["verdict"][1].startswith("failed: two atoms are 0.30 angstrom apart, less than ")
    # PBE's lattice constant is 3.572 A; the k-points are few.
    assert 3.54 < (4 * frames.volumes[0]) ** (1 / 3) < 3.60
    assert found["energy_per_atom"][0] == pytest.approx(-154.0, abs=1.5)
    assert np.isnan(found["energy"][1])
    np.testing.assert_array_equal(frames[1].positions, given.get_frames()[1].positions)
    # From the verdict over the run of pw.x and its pseudopotential back to the structure.
    query = orm.QueryBuilder().append(FramesData, filters={"uuid": given.uuid}, tag="given")
    query.append(orm.StructureData, with_ancestors="given", tag="structure")
    query.append(orm.CalcJobNode, with_incoming="structure", tag="run")
    query.append(FramesData, filters={"uuid": node.outputs.frames.uuid}, with_ancestors="run")
    assert query.count() >= 1
    runs = [one for one in node.called_descendants if isinstance(one, orm.CalcJobNode)]
    assert all(run.inputs.pseudos.C in family.nodes for run in runs)
    assert runs[0].inputs.parameters["SYSTEM"]["ecutwfc"] == 30
    row = node.base.links.get_outgoing(link_label_filter="row_000000").one().node
    assert row.process_type == "aiida.workflows:rm.judge_pw"


def test_a_crash_of_pw_leaves_the_other_alone(pw_code: Any, family: Any, judge: Any) -> None:
    settings = {**CHEAP, **BOTH, "relax": "none", "min_distance": 0}
    given = crystals(crushed(0.0), bulk("C", "diamond", a=3.65))
    found, frames, node = judge(
        frames=given,
        references=crystals(bulk("C", "diamond", a=3.567)),
        referee="pw",
        code=pw_code,
        settings=settings,
    )
    assert node.is_finished_ok
    assert found["verdict"][0].startswith("failed: pw.x stopped with '")
    assert "; mend the settings, or discard it" in found["verdict"][0]
    assert found["verdict"][1] == "converged"
    assert found["rmsd"][1] == 0
    assert 0 < found["above_hull"][1] < 0.3
    np.testing.assert_array_equal(frames.positions, given.get_frames().positions)


def test_a_relaxation_without_end_keeps_its_last_step(
    pw_code: Any, family: Any, judge: Any
) -> None:
    strained = bulk("C", "diamond", a=3.567)
    strained.positions[1] += [0.1, 0, 0]
    settings = {**CHEAP, "relax": "positions", "first_relax": False, "max_steps": 2, "max_runs": 1}
    found, _, node = judge(frames=crystals(strained), referee="pw", code=pw_code, settings=settings)
    assert node.exit_status == 704
    assert found["verdict"][0] == (
        "failed: not relaxed: not at rest after 1 x 2 steps; raise 'max_steps' or 'max_runs'"
    )
    assert np.isfinite(found["energy"][0])
    assert found["rmsd"][0] > 0


@pytest.mark.slow
def test_a_walltime(pw_code: Any, family: Any, judge: Any) -> None:
    settings = {**CHEAP, "kpoints_distance": 0.15, "relax": "none", "max_runs": 1}
    found, _, node = judge(
        frames=crystals(bulk("C", "diamond", a=3.567)),
        referee="pw",
        code=pw_code,
        settings=settings,
        options={"max_wallclock_seconds": 1},
    )
    assert node.exit_status == 704
    assert found["verdict"][0].startswith("failed: its walltime was over; give a longer `max_wall")


def test_a_missing_program(make_code: Any, family: Any, judge: Any) -> None:
    code = make_code("/no/such/place/pw.x", default_calc_job_plugin="quantumespresso.pw")
    given = crystals(bulk("C", "diamond", a=3.567))
    found, _, _ = judge(
        frames=given, referee="pw", code=code, settings={**CHEAP, "relax": "none", "max_runs": 1}
    )
    assert found["verdict"][0].startswith("failed: pw.x did not start on ")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"pseudo_family": "SSSP"}, "no family of pseudopotentials 'SSSP'; .*installed: .*carbon"),
        ({"pseudo_family": ""}, "no family of .*'SSSP/1.3/PBEsol/eff.*`aiida-pseudo install sssp"),
        ({"ecutwfc": 30}, "'ecutwfc' and 'ecutrho' go together"),
        ({"ecutwfc": 30, "ecutrho": 20}, "'ecutrho' is 20 Ry, below 'ecutwfc'"),
        ({"protocol": "moderate"}, "'protocol' is 'moderate', must be one of fast"),
        ({"pseudo_family": "bare"}, "'bare' recommends no cutoffs .*'ecutwfc' and 'ecutrho', or"),
    ],
)
def test_refused_at_submission(
    make_code: Any, family: Any, tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    if settings.get("pseudo_family") == "bare":
        from aiida_pseudo.groups.family import PseudoPotentialFamily

        folder = tmp_path / "bare"
        folder.mkdir()
        shutil.copy(PSEUDOS / CARBON, folder)
        upf = DataFactory("pseudo.upf")
        PseudoPotentialFamily.create_from_folder(folder, "bare", pseudo_type=upf)
    with pytest.raises(ValueError, match=says):
        refused(make_code, crystals(bulk("C", "diamond", a=3.567)), settings)


def test_elements_and_molecules_are_refused(make_code: Any, family: Any) -> None:
    says = (
        r"structure 0 \(Si2\) holds Si, of which the family 'carbon' has no pseudopotential; name"
    )
    with pytest.raises(ValueError, match=says):
        refused(make_code, crystals(bulk("Si")), {})
    says = r"structure 0 \(CO\) is not periodic in all directions.*take the referee 'xtb'"
    with pytest.raises(ValueError, match=says):
        refused(make_code, crystals(molecule("CO"), bulk("Si")), {})


def test_what_is_unfit_gets_a_verdict_and_the_others_go_on(family: Any) -> None:
    diamond = bulk("C", "diamond", a=3.567)
    frames = crystals(diamond, bulk("Si"), molecule("CO"), diamond).get_frames()
    referee = PwReferee(CHEAP)
    referee.check(frames)
    verdicts = referee.refuse(frames)
    assert sorted(verdicts) == [1, 2]
    assert verdicts[1].startswith("failed: Si2 holds Si, of which the family 'carbon' has no")
    assert verdicts[2].startswith("failed: CO is not periodic in all directions")


def test_a_code_of_another_program_is_refused(make_code: Any, family: Any) -> None:
    code = make_code("/bin/true", label="xtb", default_calc_job_plugin="core.shell")
    with pytest.raises(ValueError, match=r"'xtb' is for 'core\.shell'; make one of"):
        run_get_node(
            JudgeWorkChain,
            frames=crystals(bulk("C", "diamond", a=3.567)),
            referee="pw",
            code=code,
            settings=CHEAP,
        )


def test_without_aiida_quantumespresso(make_code: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiida_quantumespresso.workflows.pw.base", None)
    with pytest.raises(ValueError, match=r"is not installed; `pip install 'aiida-rm\[qe\]'` where"):
        refused(make_code, crystals(bulk("C", "diamond", a=3.567)), {})


def refused(make_code: Any, frames: FramesData, settings: dict[str, Any]) -> None:
    run_get_node(
        JudgeWorkChain,
        frames=frames,
        referee="pw",
        code=make_code("/bin/true", default_calc_job_plugin="quantumespresso.pw"),
        settings={**CHEAP, **settings},
    )
