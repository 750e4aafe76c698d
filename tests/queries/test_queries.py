"""Every query, on a loop that really ran."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.manage import get_manager

from aiida_rm import queries
from aiida_rm.calculations.functions import extract_structure, frames_from_structures
from aiida_rm.data.frames import FramesData
from aiida_rm.data.selection import RuleError
from aiida_rm.engine.frames import Frames
from aiida_rm.workflows.loop import LoopWorkChain


@pytest.fixture(scope="module")
def potentials(loop: Any) -> list[Any]:
    """Of both rounds, in order."""
    jobs = [node for node in loop.called_descendants if node.process_label == "TrainCalculation"]
    return [job.outputs.potential for job in sorted(jobs, key=lambda one: one.ctime)]


def test_all_structures_of_a_potential(loop: Any, potentials: list[Any]) -> None:
    for number, potential in enumerate(potentials, 1):
        scored = loop.outputs.scored[f"round_{number:02d}"]
        assert [node.pk for node in queries.generated_from(potential)] == [scored.pk]
        table = queries.structures_from(potential)
        assert len(table) == 4
        assert set(table["pk"]) == {scored.pk}
        assert table["index"].tolist() == [0, 1, 2, 3]
        energies = scored.get_frames().structure["energy_per_atom"]
        assert np.array_equal(table["energy_per_atom"], energies, equal_nan=True)
    some = queries.structures_from(potentials[0], {"max_energy_per_atom": -1e9})
    assert len(some) == 0
    with pytest.raises(RuleError, match="'max_colour' is no rule"):
        queries.structures_from(potentials[0], {"max_colour": 1})


def test_best(loop: Any, potentials: list[Any]) -> None:
    every = queries.best(loop, n=100)
    assert len(every) == 8
    energies = every["energy_per_atom"].to_numpy()
    assert (np.diff(energies[np.isfinite(energies)]) >= 0).all()
    three = queries.best(loop, n=3, by="-volume_per_atom")
    assert three["volume_per_atom"].iloc[0] == every["volume_per_atom"].max()
    one = queries.best(potentials[1], n=1).iloc[0]
    scored = loop.outputs.scored["round_02"].get_frames()
    assert one["index"] == np.nanargmin(scored.structure["energy_per_atom"])
    assert len(queries.best(loop.outputs.accepted, rules={"valid": True})) == len(
        loop.outputs.accepted
    )
    with pytest.raises(TypeError, match="`source` must be a FramesData, a list of them"):
        queries.best("3")
    with pytest.raises(KeyError, match="no set has the label 'colour'"):
        queries.best(loop, by="colour")


def test_lineage_of_an_accepted_structure(
    loop: Any, loop_archive: Any, potentials: list[Any]
) -> None:
    steps = queries.trace(orm.load_node(loop_archive.structure))
    processes = [step.made_by for step in steps]
    assert processes[0] == "extract_structure"
    # row by row: accepted, selected, scored, gathered from two jobs, generated
    assert processes[1:5] == [
        "merge_frames",
        "select_frames",
        "ScoreCalculation",
        "gather_generated",
    ]
    assert processes[5] == "GenerateCalculation"
    where = [(step.pk, step.index) for step in steps[1:6]]
    arrays = [
        orm.load_node(pk).get_frames()[index].positions for pk, index in where if index is not None
    ]
    assert len(arrays) == 5
    assert all(np.allclose(one, arrays[0]) for one in arrays)
    # and on: the potential, what it was trained on, the dataset of that round
    assert steps[6].pk == potentials[1].pk
    assert [step.made_by for step in steps[6:]] == [
        "TrainCalculation",
        "PerturbCalculation",
        "merge_frames",
    ]
    assert steps[-1].note == "3 structures"


def test_lineage_ends_at_the_row_of_the_dataset(loop: Any, loop_archive: Any) -> None:
    table = queries.lineage(loop.outputs.scored["round_01"], 3)
    last = table.iloc[-1]
    assert last["pk"] == orm.load_node(loop_archive.diamond).pk
    assert last["type"] == "StructureData"
    dataset = table.iloc[-2]
    assert (dataset["pk"], dataset["index"]) == (loop.inputs.dataset.pk, 0)
    assert dataset["note"] == "name diamond"
    assert table["pk"].is_unique


def test_lineage_of_a_perturbed_copy(loop: Any) -> None:
    perturb = next(
        node
        for node in sorted(loop.called_descendants, key=lambda one: one.ctime, reverse=True)
        if node.process_label == "PerturbCalculation"
    )
    parents = perturb.outputs.frames.get_frames().structure["parent"]
    index = int(np.flatnonzero(parents == 1)[0])
    steps = queries.trace(perturb.outputs.frames, index)
    assert (steps[1].pk, steps[1].index) == (perturb.inputs.frames.pk, 1)
    # row 1 of the dataset of round 2 is the first that round 1 accepted
    assert [step.made_by for step in steps[1:4]] == [
        "merge_frames",
        "select_frames",
        "ScoreCalculation",
    ]


def test_lineage_through_a_user_own_steps(loop: Any) -> None:
    nodes = {
        key: extract_structure(loop.outputs.scored["round_01"], orm.Int(i))
        for i, key in ((2, "a"), (1, "b"))
    }
    steps = queries.trace(frames_from_structures(**nodes), 1)
    assert [step.made_by for step in steps[:3]] == [
        "frames_from_structures",
        "extract_structure",
        "ScoreCalculation",
    ]
    assert steps[2].index == 1


def test_what_has_no_lineage(loop: Any, diamond_frames: Frames) -> None:
    alone = FramesData(diamond_frames).store()
    assert [step.made_by for step in queries.trace(alone, 0)] == [""]
    with pytest.raises(ValueError, match="holds 1 structures; say the index"):
        queries.trace(alone)
    with pytest.raises(IndexError, match="holds structures 0 to 0, not 1"):
        queries.trace(alone, 1)
    with pytest.raises(TypeError, match="a Dict is no structure"):
        queries.trace(orm.Dict({}))


def test_potentials_of_a_dataset(loop: Any, potentials: list[Any]) -> None:
    found = queries.potentials_trained_on(loop.inputs.dataset)
    assert [node.pk for node in found] == [potentials[0].pk]
    accepted = loop.outputs.dataset
    assert queries.potentials_trained_on(accepted) == []


def test_everything_of_a_composition(loop: Any, loop_archive: Any, molecule_frames: Frames) -> None:
    water = FramesData(molecule_frames).store()
    table = queries.with_composition("H2O")
    assert table[["pk", "index", "formula"]].to_numpy().tolist() == [[water.pk, 0, "H2O"]]
    assert queries.with_composition("H4O2").empty
    exact = queries.with_composition("C2", multiples=False)
    assert set(exact["formula"]) == {"C2"}
    diamond = orm.load_node(loop_archive.diamond)
    assert diamond.pk in set(exact[exact["type"] == "StructureData"]["pk"])
    every = queries.with_composition("C")
    assert {"C2", "C4"} <= set(every["formula"])
    assert len(every) > len(exact)
    with pytest.raises(ValueError, match="is not a formula"):
        queries.with_composition("C-2")


def test_others_can_store_while_sets_are_read(loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On SQLite an open transaction locks the database."""
    storage, read = get_manager().get_profile_storage(), []

    def seen(what: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            read.append((what, storage.in_transaction))
            return function(*arguments)

        return call

    monkeypatch.setattr(queries.finding, "bare", seen("set", queries.finding.bare))
    kind = seen("structure", orm.StructureData.get_kind)
    monkeypatch.setattr(orm.StructureData, "get_kind", kind)
    assert not queries.with_composition("C2").empty
    assert {*read} == {("set", False), ("structure", False)}


def test_sets_of_many_formulas_are_read(molecule_frames: Frames) -> None:
    node = FramesData(molecule_frames).store()
    told = {"formulas": {}, "formulas_other": 2}
    assert queries.holds_formula(told, node.pk, "OH2")
    assert not queries.holds_formula(told, node.pk, "CO2")


def test_yield_per_round(loop: Any) -> None:
    table = queries.yield_per_round(loop)
    told = loop.outputs.rounds["rounds"]
    assert table["round"].tolist() == [1, 2]
    assert table["accepted"].tolist() == [row["accepted"] for row in told]
    assert table["yield"].tolist() == [row["yield"] for row in told]
    assert list(queries.scored_of(loop)) == ["round_01", "round_02"]
    with pytest.raises(ValueError, match="is no rm"):
        queries.yield_per_round(loop.called[0])


def test_tables_of_sets_with_other_labels(molecule_frames: Frames, diamond_frames: Frames) -> None:
    nodes = [FramesData(frames).store() for frames in (molecule_frames, diamond_frames)]
    table = queries.structures(nodes)
    assert table["formula"].tolist() == ["H2O", "CO", "C2"]
    assert table["pk"].tolist() == [nodes[0].pk, nodes[0].pk, nodes[1].pk]
    assert table["name"].isna().tolist() == [True, True, False]
    assert np.isnan(table["volume_per_atom"][0])
    assert list(queries.structures([])) == ["pk", "index", "formula", "n_atoms", "volume_per_atom"]


def test_what_came_in_an_archive_can_be_used(loop: Any) -> None:
    """docs/howto/sharing.md: this profile has nothing but the archive."""
    potential = loop.outputs.potential
    atoms = loop.outputs.accepted.get_ase(0)
    atoms.calc = potential.get_calculator(device="cpu")
    assert np.isfinite(atoms.get_potential_energy())
    builder = LoopWorkChain.get_builder_from_loop(loop, rounds=1)
    assert (builder.first_round.value, len(builder.dataset)) == (3, len(loop.outputs.dataset))
    assert builder.train.train.potential.uuid == potential.uuid
