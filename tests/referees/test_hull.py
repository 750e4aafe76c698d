"""Energies above the hull: cases worked out by hand, and by a referee."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase.build import bulk

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.converters import from_ase
from aiida_rm.engine.frames import Frames
from aiida_rm.referees.functions import is_judged
from aiida_rm.referees.hull import NO_CRYSTAL, above_hull
from aiida_rm.workflows.judge import JudgeWorkChain
from tests.workflows.conftest import engine_code  # noqa: F401 - a fixture

C, OX, SI = 6, 8, 14


def crystals(*numbers: list[int], pbc: bool = True) -> Frames:
    """Atoms in a row; an energy above the hull knows nothing of positions."""
    positions = [[[2.0 * i, 0, 0] for i in range(len(n))] for n in numbers]
    cells = [np.diag([2.0 * len(n), 9, 9]) for n in numbers]
    return Frames.build(numbers, positions, cells=cells, pbc=[[pbc] * 3] * len(numbers))


def test_polymorphs_of_an_element() -> None:
    """The lowest reference of several is the hull, whatever its cell; a new one lies below."""
    references = crystals([C] * 2, [C] * 4)
    values, notes = above_hull(
        crystals([C], [C] * 8, [C] * 2, [C]), [-9.0, -72.4, -18.4, np.nan], references, [-18, -36.4]
    )
    # -36.4 / 4 = -9.1 is the hull: -9.0, -9.05 and -9.2 per atom against it.
    np.testing.assert_allclose(values, [0.1, 0.05, -0.1, np.nan], atol=1e-9)
    assert notes == [""] * 4


def test_compounds_of_two_elements() -> None:
    """A at 0, B at 0, AB at -1 eV an atom, and a reference that is itself above the hull."""
    references = crystals([SI], [OX], [SI, OX], [SI, SI, OX])
    told = [0.0, 0.0, -2.0, -0.3]
    values, notes = above_hull(
        crystals([SI, SI, SI, OX], [SI, OX], [SI, OX], [SI, SI, OX], [SI]),
        [-1.2, -1.6, -2.4, -0.3, 0.2],
        references,
        told,
    )
    # Si3O: the line from Si to SiO is at -0.5. SiO: 0.2 above and 0.2 below the old one.
    # Si2O: the line is at -2/3, and -0.1 is above it.
    np.testing.assert_allclose(values, [0.2, 0.2, -0.2, 2 / 3 - 0.1, 0.2], atol=1e-9)
    assert notes == [""] * 5


def test_what_has_no_hull() -> None:
    references = crystals([SI], [OX], [SI, OX])
    frames = crystals([SI, OX], [SI])
    values, notes = above_hull(frames, [-2.0, -1.0], references, [0.0, np.nan, -2.0])
    np.testing.assert_allclose(values, [np.nan, -1.0])
    assert notes == ["no hull: no judged reference is a phase of O", ""]
    values, notes = above_hull(crystals([SI], pbc=False), [-1.0], references, [0.0, 0.0, -2.0])
    assert np.isnan(values).all()
    assert notes == [NO_CRYSTAL]


SETTINGS = {"calculator": "ase.calculators.emt:EMT", "relax": False}


def test_references_are_judged_once(engine_code: Any, judge: Any) -> None:  # noqa: F811
    alloy, copper, gold = bulk("Cu", cubic=True), bulk("Cu"), bulk("Au")
    alloy.numbers[0] = 79
    given = FramesData(from_ase([alloy, bulk("Cu", a=3.7), bulk("Ni")]))
    references = FramesData(from_ase([copper, gold]))
    common = {"referee": "ase", "label": "emt", "code": engine_code, "settings": SETTINGS}
    found, _, node = judge(frames=given, references=references, **common)
    phases = node.outputs.references.get_frames().structure["emt_energy_per_atom"]
    mixed = (3 * phases[0] + phases[1]) / 4
    hull = found["energy_per_atom"] - [mixed, phases[0], np.nan]
    np.testing.assert_allclose(found["above_hull"], hull, atol=1e-9)
    assert found["above_hull"][1] > 0
    assert found["note"].tolist() == ["", "", "no hull: no judged reference is a phase of Ni"]
    assert node.outputs.results["lowest_above_hull"] == pytest.approx(np.nanmin(hull))
    assert len([one for one in node.called if isinstance(one, orm.CalcJobNode)]) == 2
    # From the hull back to the phases.
    query = orm.QueryBuilder().append(FramesData, filters={"uuid": references.uuid}, tag="given")
    query.append(FramesData, filters={"uuid": node.outputs.frames.uuid}, with_ancestors="given")
    assert query.count() >= 1
    again, _, other = judge(frames=given, references=node.outputs.references, **common)
    np.testing.assert_array_equal(again["above_hull"], found["above_hull"])
    assert other.outputs.references.uuid == node.outputs.references.uuid
    assert len([one for one in other.called if isinstance(one, orm.CalcJobNode)]) == 1


def test_labels_of_another_kind_are_no_verdicts() -> None:
    frames = from_ase([bulk("Cu")])
    labels = {"emt_energy_per_atom": [1.0], "emt_verdict": ["converged"]}
    assert is_judged(frames.with_labels(structure=labels), "emt")
    assert not is_judged(frames.with_labels(structure={**labels, "emt_verdict": [1.0]}), "emt")
    text = {**labels, "emt_energy_per_atom": ["low"]}
    assert not is_judged(frames.with_labels(structure=text), "emt")


def test_references_are_refused_at_submission(make_code: Any) -> None:
    copper = FramesData(from_ase([bulk("Cu")]))
    many = FramesData(from_ase([bulk("Cu")] * 101))
    with pytest.raises(ValueError, match="`references`: 101 structures, more than 100; give them"):
        run_get_node(
            JudgeWorkChain,
            frames=copper,
            references=many,
            referee="ase",
            code=make_code("/bin/true"),
            settings=SETTINGS,
        )
