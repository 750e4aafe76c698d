"""xtb through aiida-shell: the real program, and programs that misbehave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.referees.xtb import XtbReferee
from aiida_rm.workflows.judge import JudgeWorkChain

WATER = ([8, 1, 1], [[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]])
METHYL = ([6, 1, 1, 1], [[0, 0, 0], [0, 1.08, 0], [0.93, -0.54, 0], [-0.93, -0.54, 0]])
#: Two carbons on nearly one spot.
CRUSHED = ([6, 6], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.001]])
URANIUM = ([92, 92], [[0.0, 0.0, 0.0], [0.0, 0.0, 2.5]])
#: Of version 6.5.1, in hartree: GFN2-xTB with --opt normal.
WATER_ENERGY = -5.070544

HARTREE = 27.211386245988


def molecules(*parts: Any, **structure: Any) -> FramesData:
    numbers, positions = zip(*parts, strict=True)
    return FramesData(Frames.build(numbers, positions, structure=structure))


def test_molecules_are_judged_one_by_one(xtb_code: Any, judge: Any) -> None:
    given = molecules(WATER, CRUSHED, METHYL, URANIUM, name=["water", "crushed", "methyl", "U2"])
    found, frames, node = judge(frames=given, referee="xtb", code=xtb_code)
    assert node.is_finished_ok
    verdicts = found["verdict"].tolist()
    assert verdicts[0] == verdicts[2] == "converged"
    assert verdicts[1].startswith("failed: its atoms are much too near each other; ")
    assert "holds an element beyond radon" in verdicts[3]
    assert found["row"].tolist() == [0, 1, 2, 3]
    assert found["energy"][0] == pytest.approx(WATER_ENERGY * HARTREE, abs=1e-3)
    np.testing.assert_allclose(found["energy_per_atom"], found["energy"] / frames.counts)
    assert 0 < found["rmsd"][0] < 0.1
    assert np.isnan(found["energy"][[1, 3]]).all()
    assert np.isnan(found["rmsd"][[1, 3]]).all()
    # The relaxed geometry, and the given one where there is none.
    distance = np.linalg.norm(frames.positions[1] - frames.positions[0])
    assert distance == pytest.approx(0.9592, abs=2e-3)
    np.testing.assert_array_equal(frames[1].positions, CRUSHED[1])
    # What the structures were called stays with them.
    assert frames.structure["name"].tolist() == ["water", "crushed", "methyl", "U2"]
    assert found["note"].tolist()[0] == ""
    assert "doublet" in found["note"][2]


def test_every_energy_leads_back_to_its_run_and_its_structure(xtb_code: Any, judge: Any) -> None:
    given = molecules(WATER)
    _, _, node = judge(frames=given, referee="xtb", code=xtb_code)
    result = node.outputs.frames
    query = orm.QueryBuilder().append(FramesData, filters={"uuid": given.uuid}, tag="given")
    query.append(orm.CalcJobNode, with_ancestors="given", tag="job")
    query.append(FramesData, filters={"uuid": result.uuid}, with_ancestors="job")
    assert query.count() >= 1
    jobs = [job for job in node.called if isinstance(job, orm.CalcJobNode)]
    assert [job.base.attributes.get("process_label") for job in jobs] == [
        f"ShellJob<{xtb_code.full_label}>"
    ]
    assert jobs[0].base.links.get_incoming().get_node_by_label("nodes__structure").creator
    assert "TOTAL ENERGY" in jobs[0].outputs.stdout.get_content()


def test_odd_electrons_can_be_refused(xtb_code: Any, judge: Any) -> None:
    found, _, node = judge(
        frames=molecules(METHYL, WATER),
        referee="xtb",
        code=xtb_code,
        settings={"odd_electrons": "refuse", "relax": False},
        label="single",
    )
    verdicts = found["verdict"].tolist()
    assert verdicts[0].startswith("failed: CH3 has an odd number of electrons at the charge 0; set")
    assert verdicts[1] == "converged"
    assert found["rmsd"][1] == 0
    assert node.outputs.results["failed"] == 1
    assert node.outputs.results["reasons"] == [[verdicts[0], 1]]


def test_out_of_steps(xtb_code: Any, judge: Any) -> None:
    settings = {"max_steps": 1, "level": "tight"}
    found, _, node = judge(frames=molecules(WATER), referee="xtb", code=xtb_code, settings=settings)
    assert node.exit_status == 704
    assert found["verdict"][0] == (
        "failed: not relaxed in 1 steps; raise 'max_steps', or loosen 'level'"
    )
    assert np.isfinite(found["energy"][0])  # of where it came to


def test_a_missing_program(make_code: Any, judge: Any) -> None:
    code = make_code("/no/such/place/xtb")
    found, frames, node = judge(frames=molecules(WATER, METHYL), referee="xtb", code=code)
    assert node.exit_status == 704
    for verdict in found["verdict"]:
        assert verdict.startswith("failed: xtb did not start on ")
        assert "install it there, and mend the path" in verdict
    np.testing.assert_array_equal(frames[0].positions, WATER[1])
    assert "did not start" in node.exit_message


#: What a program does, and the verdict; by the number of atoms.
MISDEEDS = [
    ("while :; do :; done", "its walltime was over; give a longer `max_wallclock_seconds`"),
    ("kill -KILL $$", "signal 9 ended it (out of memory, or its walltime was over)"),
    ("echo boom >&2; exit 3", "xtb ended with status 3 (boom)"),
    ("echo hello", "xtb printed no energy; is the code's program xtb"),
    ("echo '| TOTAL ENERGY  -5.0 Eh |'", "the relaxed structure 'xtbopt.xyz' did not come"),
    (
        "echo '| TOTAL ENERGY  -5.0 Eh |'; printf '1\\n\\nO 0 0 0\\n' > xtbopt.xyz",
        "the relaxed structure has other atoms, or in another order",
    ),
    (
        "echo '| TOTAL ENERGY  -5.0 Eh |'; echo nonsense > xtbopt.xyz",
        "the relaxed structure cannot be read",
    ),
    ("echo 'scf: SCC did not converge'; exit 1", "its electronic structure did not converge"),
    ("cp structure.xyz xtbopt.xyz; echo '| TOTAL ENERGY  -5.0 Eh |'", ""),
]


def test_what_goes_wrong_leaves_the_others_alone(script: Any, judge: Any) -> None:
    cases = "\n".join(f"{n}) {program} ;;" for n, (program, _) in enumerate(MISDEEDS, 1))
    code = script(f"case $(head -1 structure.xyz | tr -d ' ') in\n{cases}\nesac")
    helium = [([2] * n, [[3.0 * i, 0, 0] for i in range(n)]) for n in range(1, len(MISDEEDS) + 1)]
    found, _, node = judge(
        frames=molecules(*helium),
        referee="xtb",
        code=code,
        options={"max_wallclock_seconds": 1, "prepend_text": "echo before"},
        max_concurrent=len(MISDEEDS),
    )
    assert node.is_finished_ok
    for (_, says), verdict in zip(MISDEEDS, found["verdict"], strict=True):
        assert verdict.startswith(f"failed: {says}") if says else verdict == "converged"
        assert "Traceback" not in verdict
    assert node.outputs.results["converged"] == 1


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"referee": "xbt"}, r"'xbt' is no referee; did you mean 'xtb'\? known: .*xtb"),
        ({"settings": {"level": "firm"}}, "'level' is 'firm', must be one of crude"),
        ({"settings": {"uhf": 1}}, "'uhf' is no setting"),
        ({"max_structures": 1}, r"2 structures, more than `max_structures`, 1; choose .*select"),
        ({"max_structures": 0}, "must be between 1 and"),
        ({"max_concurrent": 0}, "`max_concurrent` is 0, must be at least 1"),
        ({"label": "no label"}, "use a letter, then letters"),
        ({"options": {"max_walclock_seconds": 5}}, "did you mean 'max_wallclock_seconds'"),
        ({"options": {"max_wallclock_seconds": "long"}}, r"`options\.max_wallclock_seconds`"),
        ({"options": {"max_wallclock_seconds": -3}}, "`max_wallclock_seconds` is -3, must be at"),
        ({"options": {"resources": {"num_machine": 1}}}, r"`options\.resources`: .*num_machine"),
        ({"options": {"resources": {}}}, r"`options\.resources`: "),
    ],
)
def test_refused_at_submission(make_code: Any, inputs: dict[str, Any], says: str) -> None:
    given = {"frames": molecules(WATER, METHYL), "referee": "xtb", "code": make_code("/bin/true")}
    with pytest.raises(ValueError, match=says):
        run_get_node(JudgeWorkChain, **{**given, **inputs})


def test_computers_out_of_reach_are_refused_at_submission(make_code: Any) -> None:
    computer = orm.Computer(
        label="far",
        hostname="far",
        transport_type="core.ssh",
        scheduler_type="core.direct",
        workdir="/far",
    ).store()
    code = orm.InstalledCode(computer=computer, filepath_executable="/bin/xtb", label="xtb")
    given = {"frames": molecules(WATER), "referee": "xtb"}
    with pytest.raises(
        ValueError, match=r"not configured; `verdi computer configure core\.ssh far`"
    ):
        run_get_node(JudgeWorkChain, **given, code=code.store())


def test_a_crystal_among_molecules_gets_a_verdict(diamond_frames: Frames) -> None:
    frames = concatenate([molecules(WATER).get_frames().without_labels(), diamond_frames])
    referee = XtbReferee({})
    referee.check(frames)
    (row,) = referee.refuse(frames)
    assert row == 1
    assert referee.refuse(frames)[row].startswith(
        "failed: C2 is periodic, and xtb judges molecules"
    )


def test_crystals_are_refused_at_submission(make_code: Any, diamond_frames: Frames) -> None:
    with pytest.raises(ValueError, match=r"structure 0 \(C2\) is periodic, and xtb judges mol"):
        run_get_node(
            JudgeWorkChain,
            frames=FramesData(diamond_frames),
            referee="xtb",
            code=make_code("/bin/true"),
        )
