"""Calcfunctions: results, provenance, and exit codes that say what to do."""

from __future__ import annotations

import re

import numpy as np
import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.manage.caching import enable_caching
from aiida.plugins import CalculationFactory
from ase.build import bulk

from aiida_rm.calculations import functions
from aiida_rm.data.frames import FramesData
from aiida_rm.data.selection import RuleError, check_rules, select_indices
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.settings import GenerateSettings, parse_settings


def structure(element: str = "Cu", label: str = "") -> orm.StructureData:
    node = orm.StructureData(ase=bulk(element))
    node.label = label
    return node


def scored() -> Frames:
    """Six structures with verdicts, as ``rm.score`` leaves them."""
    return Frames.build(
        [[6] * n for n in (2, 4, 4, 8, 2, 1)],
        [np.arange(3 * n).reshape(n, 3) for n in (2, 4, 4, 8, 2, 1)],
        cells=[np.eye(3) * (30 + i) for i in range(6)],
        structure={
            "valid": [True, True, False, True, True, True],
            "unique": [True, True, False, True, False, True],
            "match": ["diamond", "", "", "graphite", "diamond", "long name"],
            "spacegroup": np.array([227, 1, 0, 194, 227, 221], np.int16),
            "energy_per_atom": [0.0, 0.3, 9.0, 0.1, 0.0, np.nan],
            "min_distance": [1.5, 1.4, 0.2, 1.4, 1.5, np.inf],
            "rdf": np.zeros((6, 5)),
        },
        atom={"coordination": np.zeros(21, np.int16)},
    )


def failed(results, node, status: int, *words: str) -> None:
    assert results == {}
    assert node.is_finished
    assert node.exit_status == status
    for word in words:
        assert word in node.exit_message
    assert not re.search(r"\{\w*\}", node.exit_message), "a placeholder was not filled"


def test_frames_from_structures_keeps_order_names_and_links():
    nodes = {"b": structure("Fe", "iron"), "a": structure("Cu"), "c": structure("Al", "light")}
    result = functions.frames_from_structures(**nodes)
    assert isinstance(result, FramesData)
    frames = result.get_frames()
    assert frames.structure["name"].tolist() == ["Cu", "iron", "light"]
    assert [frames.formula(i) for i in range(3)] == ["Cu", "Fe", "Al"]
    incoming = result.creator.base.links.get_incoming(link_type=LinkType.INPUT_CALC)
    assert {link.node.uuid for link in incoming} == {node.uuid for node in nodes.values()}


def test_frames_from_one_structure():
    result = functions.frames_from_structures(structure=structure("Cu"))
    assert result.formulas == {"Cu": 1}


def test_frames_from_structures_refuses():
    failed(*functions.frames_from_structures.run_get_node(), 202, "no structures")
    alloy = orm.StructureData(cell=np.eye(3) * 3)
    alloy.append_atom(position=(0, 0, 0), symbols=("Fe", "Ni"), weights=(0.5, 0.5))
    failed(*functions.frames_from_structures.run_get_node(a=alloy), 202, "partly empty")
    bare = orm.StructureData(cell=np.eye(3) * 3)
    failed(*functions.frames_from_structures.run_get_node(a=bare), 202, "no atoms")
    number = orm.Int(1)
    failed(*functions.frames_from_structures.run_get_node(a=number), 202, "no StructureData")


def test_extract_structure_is_linked_to_the_frames():
    frames = FramesData(scored()).store()
    result = functions.extract_structure(frames, orm.Int(3))
    assert result.is_stored
    assert result.get_formula() == "C8"
    np.testing.assert_array_equal(result.cell, np.eye(3) * 33)
    links = result.creator.base.links.get_incoming(link_type=LinkType.INPUT_CALC)
    assert links.get_node_by_label("frames").uuid == frames.uuid
    assert links.get_node_by_label("index").value == 3
    builder = orm.QueryBuilder().append(orm.Node, filters={"uuid": frames.uuid}, tag="frames")
    builder.append(orm.StructureData, with_ancestors="frames", project="uuid")
    assert builder.all(flat=True) == [result.uuid]


@pytest.mark.parametrize("index", [6, -1, 10**12])
def test_extract_structure_out_of_range(index):
    frames = FramesData(scored())
    outcome = functions.extract_structure.run_get_node(frames, orm.Int(index))
    failed(*outcome, 206, f"Structure {index} does not exist", "0..5")


def test_extract_structure_with_labels_of_strangers(diamond_frames):
    """No database of AiiDA's takes a NUL, and a mass is one number."""
    labels = {"structure": {"name": ["a\0b"]}, "atom": {"kind": ["C\0x", "C\ud800"]}}
    result = functions.extract_structure(FramesData(diamond_frames.with_labels(**labels)), 0)
    assert result.label == "ab"
    assert [kind.name for kind in result.kinds] == ["Cx", "C?"]
    masses = diamond_frames.with_labels(atom={"mass": [[1.0, 2.0]] * 2})
    failed(*functions.extract_structure.run_get_node(FramesData(masses), orm.Int(0)), 202)


def test_structures_there_and_back():
    first, second = structure("Fe", "one"), structure("Cu", "two")
    frames = functions.frames_from_structures(x=first, y=second)
    for index, node in enumerate((first, second)):
        back = functions.extract_structure(frames, orm.Int(index))
        assert back.base.attributes.all == node.base.attributes.all
        assert back.label == node.label


def test_merge_frames(diamond_frames):
    given = {"z": FramesData(diamond_frames), "a": FramesData(scored())}
    merged = functions.merge_frames(**given).get_frames()
    assert len(merged) == 7
    assert merged.formula(6) == "C2"
    np.testing.assert_array_equal(merged.positions[-2:], diamond_frames.positions)
    assert merged.structure == {}
    assert merged.atom == {}
    twice = functions.merge_frames(a=FramesData(scored()), b=FramesData(scored())).get_frames()
    assert sorted(twice.structure) == sorted(scored().structure)
    assert twice.structure["match"].tolist()[5:8] == ["long name", "diamond", ""]


def test_merge_frames_with_chosen_labels():
    pair = {"a": FramesData(scored()), "b": FramesData(scored())}
    merged = functions.merge_frames(labels=orm.List(["match", "coordination"]), **pair)
    assert merged.structure_labels == ["match"]
    assert merged.atom_labels == ["coordination"]
    bare = functions.merge_frames(labels=orm.List([]), **pair)
    assert bare.structure_labels == bare.atom_labels == []
    outcome = functions.merge_frames.run_get_node(labels=orm.List(["title"]), **pair)
    failed(*outcome, 202, "no label 'title'", "match")


def test_merge_frames_refuses():
    failed(*functions.merge_frames.run_get_node(), 202, "nothing to join")
    outcome = functions.merge_frames.run_get_node(a=FramesData(scored()), b=orm.Int(1))
    failed(*outcome, 202, "'b' is a Int, no FramesData")
    left = scored()
    right = left.with_labels(structure={"rdf": np.zeros((6, 9))})
    outcome = functions.merge_frames.run_get_node(a=FramesData(left), b=FramesData(right))
    failed(*outcome, 202, "'rdf' differs in shape")


@pytest.mark.parametrize(
    ("rules", "wanted"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"valid": True}, [0, 1, 3, 4, 5]),
        ({"valid": False}, [2]),
        ({"valid": True, "unique": True, "match": ["diamond", "graphite"]}, [0, 3]),
        ({"match": "long name"}, [5]),
        ({"match": "long"}, []),
        ({"match": ["a much longer text than any of the labels"]}, []),
        ({"spacegroup": 227}, [0, 4]),
        ({"spacegroup": [1, 194, 100_000]}, [1, 3]),
        ({"max_energy_per_atom": 0.3}, [0, 1, 3, 4]),
        ({"min_energy_per_atom": 0.1, "max_energy_per_atom": 5}, [1, 3]),
        ({"min_distance": 1.5}, [0, 4]),
        ({"min_min_distance": 1.45}, [0, 4, 5]),
        ({"n_atoms": [2, 4]}, [0, 1, 2, 4]),
        ({"max_n_atoms": 2, "formula": "C2"}, [0, 4]),
        ({"min_volume_per_atom": 15_000}, [4, 5]),
        ({"sort": "energy_per_atom"}, [0, 4, 3, 1, 2, 5]),
        ({"sort": "-energy_per_atom"}, [2, 1, 3, 0, 4, 5]),
        ({"sort": "match"}, [1, 2, 0, 4, 3, 5]),
        ({"sort": "-n_atoms", "limit": 2}, [3, 1]),
        ({"valid": True, "sort": "energy_per_atom", "limit": 3}, [0, 4, 3]),
        ({"limit": 100}, [0, 1, 2, 3, 4, 5]),
        ({"sort": "energy_per_atom", "limit_per_composition": 2}, [0, 4]),
        ({"sort": "-n_atoms", "limit_per_composition": 5, "limit": 4}, [3, 1, 2, 0]),
    ],
)
def test_rules(rules, wanted):
    assert select_indices(scored(), rules).tolist() == wanted


def test_the_first_of_each_composition() -> None:
    """Si2C4 is SiC2; a molecule is no crystal; what other rules refuse does not count."""
    numbers = [[6, 14, 6], [6, 6, 6, 6, 14, 14], [14, 6], [6, 14], [6, 14, 6], [6, 6, 14]]
    mixed = Frames.build(
        numbers,
        [np.arange(3 * len(one)).reshape(-1, 3) for one in numbers],
        cells=[np.eye(3) * 30] * 6,
        pbc=np.repeat([[True], [True], [True], [False], [True], [False]], 3, axis=1),
        structure={"valid": [False, True, True, True, True, True]},
    )
    assert select_indices(mixed, {"limit_per_composition": 1}).tolist() == [0, 2, 3, 5]
    rules = {"valid": True, "limit_per_composition": 1}
    assert select_indices(mixed, rules).tolist() == [1, 2, 3, 5]
    rules = {"sort": "-n_atoms", "limit_per_composition": 2, "limit": 3}
    assert select_indices(mixed, rules).tolist() == [1, 0, 5]


def test_formulas_in_any_order() -> None:
    salts = Frames.build([[11, 17], [17, 11], [7, 8]], [np.arange(6).reshape(2, 3)] * 3)
    assert select_indices(salts, {"formula": "NaCl"}).tolist() == [0, 1]
    assert select_indices(salts, {"formula": ["ClNa", "ON"]}).tolist() == [0, 1, 2]
    own = salts.with_labels(structure={"formula": ["NaCl", "salt", ""]})
    assert select_indices(own, {"formula": "salt"}).tolist() == [1]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"sound": True}, "'sound' is no rule.*known are energy_per_atom, formula, match"),
        ({"novel": True}, "'novel' is no rule"),
        ({"max_valid": 1}, "compares numbers"),
        ({"max_match": "a"}, "compares numbers"),
        ({"max_energy_per_atom": "1"}, "compares numbers"),
        ({"max_energy_per_atom": True}, "compares numbers"),
        ({"max_fmax": 1}, "'max_fmax' is no rule"),
        ({"valid": 1}, "'valid' must be true or false"),
        ({"match": 1}, "'match' must be text"),
        ({"match": ["diamond", None]}, "'match' must be text, is None"),
        ({"spacegroup": "Fd-3m"}, "'spacegroup' must be a number"),
        ({"spacegroup": True}, "'spacegroup' must be a number"),
        ({"formula": "diamond"}, "'formula': 'diamond' is not a formula"),
        ({"formula": ["C2", "Qx"]}, "'formula': 'Qx' in the formula"),
        ({"formula": 2}, "'formula' must be text"),
        ({"rdf": 0.0}, "'rdf' is no rule"),
        ({"coordination": 4}, "'coordination' is no rule"),
        ({"match": []}, "empty list"),
        ({"match": None}, "must be true, false, a number, text or a list"),
        ({"valid": {"==": True}}, "must be true, false, a number, text or a list"),
        ({"limit": 0}, "'limit' must be a whole number from 1"),
        ({"limit": 2.5}, "'limit' must be a whole number from 1"),
        ({"limit_per_composition": 0}, "'limit_per_composition' must be a whole number from 1"),
        ({"limit": True}, "'limit' must be a whole number from 1"),
        ({"sort": "energy"}, "'sort: energy' is no rule"),
        ({"sort": ["energy"]}, "'sort' must be the name of a label"),
        ({"sort": "-"}, "'sort' must be the name of a label"),
    ],
)
def test_bad_rules(rules, message):
    with pytest.raises(RuleError, match=message):
        select_indices(scored(), rules)


def test_rules_are_checked_before_anything_runs():
    check_rules({"valid": True, "match": ["diamond"], "max_fmax": 1e-3, "limit": 1})
    for wrong in ([], None, "valid"):
        with pytest.raises(RuleError, match="must be a table"):
            check_rules(wrong)


def test_select_frames():
    frames = FramesData(scored())
    rules = orm.Dict({"valid": True, "unique": True, "sort": "-spacegroup", "limit": 2})
    selected = functions.select_frames(frames, rules)
    chosen = selected.get_frames()
    assert chosen.structure["source_index"].tolist() == [0, 5]
    assert chosen.structure["match"].tolist() == ["diamond", "long name"]
    assert chosen.structure["rdf"].shape == (2, 5)
    assert selected.creator.inputs.frames.uuid == frames.uuid


def test_the_uncertain_are_left_out():
    """What was not judged is not certain."""
    values = np.array([0.3, 0.1, np.nan, 0.2, 0.05, 0.4])
    frames = FramesData(scored().with_labels(structure={"uncertainty": values}))
    rules = orm.Dict({"max_uncertainty": 0.25, "sort": "uncertainty"})
    chosen = functions.select_frames(frames, rules).get_frames()
    assert chosen.structure["source_index"].tolist() == [4, 1, 3]


def test_select_frames_refuses():
    frames = FramesData(scored())
    outcome = functions.select_frames.run_get_node(frames, orm.Dict({"sound": True}))
    failed(*outcome, 207, "'sound' is no rule", "known are", "valid")
    for rules in ({"max_uncertainty": 0.1}, {"sort": "-uncertainty_mean"}):
        outcome = functions.select_frames.run_get_node(frames, orm.Dict(rules))
        failed(*outcome, 207, "a committee has judged; set `committee_size`", "to rm.generate")
    outcome = functions.select_frames.run_get_node(frames, orm.Dict({"max_energy_per_atom": -1}))
    failed(*outcome, 500, "None of 6 structures meets the rules (max_energy_per_atom=-1: 0)")
    few = orm.Dict({"valid": True, "unique": False, "max_n_atoms": 1, "limit": 2})
    outcome = functions.select_frames.run_get_node(frames, few)
    failed(*outcome, 500, "(valid: ", ", not unique: ", ", max_n_atoms=1: 0)")


def test_settings_of_round():
    given = orm.Dict({"seed": 5, "epochs": 3})
    seeds = [functions.settings_of_round(given, orm.Int(number)).get_dict() for number in range(3)]
    assert seeds[0] == {"seed": 5, "epochs": 3}
    assert seeds[2] == {"seed": 5 + 2 * 1_000_003, "epochs": 3}
    assert functions.settings_of_round(orm.Dict({}), orm.Int(1)).get_dict() == {"seed": 1_000_003}
    outcome = functions.settings_of_round.run_get_node(orm.Dict({"seed": "x"}), orm.Int(1))
    failed(*outcome, 201, "'seed'")
    failed(*functions.settings_of_round.run_get_node(given, orm.Int(-1)), 201, "round")


def test_settings_of_member():
    given = orm.Dict({"seed": 5, "epochs": 3})
    member = functions.settings_of_member
    assert member(given, orm.Int(0)).get_dict() == given.get_dict()
    assert member(given, orm.Int(2)).get_dict() == {"seed": 5 + 2_000_000_014, "epochs": 3}
    failed(*member.run_get_node(given, orm.Int(-1)), 201, "member")
    strides = functions.SEED_STRIDE, functions.MEMBER_STRIDE
    seeds = {strides[0] * turn + strides[1] * number for turn in range(999) for number in range(20)}
    assert len(seeds) == 999 * 20


@pytest.mark.parametrize(("count", "jobs"), [(10, 3), (3, 10), (7, 7), (1, 1)])
def test_split_generation_shares_all_structures_once(count, jobs):
    given = orm.Dict({"n_structures": count, "first_index": 100, "seed": 3})
    parts = functions.split_generation(given, orm.Int(jobs))
    assert len(parts) == min(count, jobs)
    settings = [parse_settings(GenerateSettings, parts[name].get_dict()) for name in sorted(parts)]
    indices = [i for s in settings for i in range(s.first_index, s.first_index + s.n_structures)]
    assert indices == list(range(100, 100 + count))
    assert {s.seed for s in settings} == {3}
    sizes = [s.n_structures for s in settings]
    assert max(sizes) - min(sizes) <= 1


def test_names_of_many_jobs_sort_by_number():
    parts = functions.split_generation.__wrapped__(orm.Dict({"n_structures": 1500}), orm.Int(1200))
    assert sorted(parts) == list(parts)
    assert next(iter(parts)) == "job_0000"


def test_split_generation_of_defaults_and_of_nonsense():
    parts = functions.split_generation(orm.Dict({}), orm.Int(2))
    assert parts["job_000"].get_dict() == {"first_index": 0, "n_structures": 50}
    assert parts["job_001"].get_dict() == {"first_index": 50, "n_structures": 50}
    failed(*functions.split_generation.run_get_node(orm.Dict({}), orm.Int(0)), 201, "'n_jobs'")
    outcome = functions.split_generation.run_get_node(orm.Dict({"n_struct": 5}), orm.Int(2))
    failed(*outcome, 201, "did you mean 'n_structures'")


def test_caching_replays():
    frames = FramesData(scored())
    rules = {"valid": True, "limit": 1}
    _, first = functions.select_frames.run_get_node(frames, orm.Dict(rules))
    with enable_caching():
        _, again = functions.select_frames.run_get_node(FramesData(scored()), orm.Dict(rules))
    assert again.base.caching.get_cache_source() == first.uuid


@pytest.mark.parametrize(
    "name", ["frames_from_structures", "extract_structure", "merge_frames", "select_frames"]
)
def test_entry_points(name):
    assert CalculationFactory(f"rm.{name}") is getattr(functions, name)
