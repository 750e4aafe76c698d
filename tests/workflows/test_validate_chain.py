"""rm.validate with referees: real jobs, one referee that judges and one that cannot."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase.build import bulk

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.converters import from_ase
from aiida_rm.engine.frames import Frames
from aiida_rm.workflows.candidates import choose_candidates, join_verdicts, rules_before
from aiida_rm.workflows.validate import ValidateWorkChain
from tests.workflows.test_protocols import refused

EMT = {"calculator": "ase.calculators.emt:EMT", "cell": "free", "fmax": 0.01}


def metals(**labels: Any) -> FramesData:
    """Copper twice, which differ until they relax, iron, which EMT does not know, and an alloy."""
    alloy = bulk("Cu", cubic=True)
    alloy.numbers[0] = 79
    shaken = bulk("Cu", cubic=True)
    shaken.positions[0] += 0.7
    frames = from_ase([bulk("Cu", a=3.6), bulk("Fe"), alloy, shaken])
    return FramesData(frames.with_labels(structure=labels) if labels else frames)


def test_the_relaxed_are_scored_again_and_one_referee_may_fail(engine_code: Any) -> None:
    builder = ValidateWorkChain.get_builder_from_protocol(
        engine_code,
        metals(energy_per_atom=np.array([0.3, 0.1, 0.2, 0.4])),
        overrides={
            "score": {"settings": {"processes": 1}},
            "rules": {"sort": "emt_energy_per_atom"},
        },
        referees={
            "emt": {"referee": "ase", "code": engine_code, "settings": EMT},
            "told": {  # the name of an argument of the function that joins them
                "referee": "ase",
                "code": engine_code,
                "settings": {"calculator": "no.such:Potential"},
            },
        },
    )
    builder.adopt = "emt"
    rules = builder.rules.get_dict()
    assert rules.pop("told_verdict") == rules["emt_verdict"] == "converged"
    builder.rules = rules
    results, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message

    assert "emt_energy" not in results["scored"].structure_labels
    # As generated the two coppers differ; relaxed by EMT they do not.
    assert results["scored"].get_frames().structure["unique"].all()
    judged = results["judged"].get_frames()
    assert judged.structure["scored_row"].tolist() == [1, 2, 0, 3]  # by E~
    assert judged.structure["duplicate_of"].tolist() == [0, 1, 2, 2]
    verdicts = judged.structure["emt_verdict"].tolist()
    assert [verdict == "converged" for verdict in verdicts] == [False, True, True, True]
    assert all("cannot be imported" in text for text in judged.structure["told_verdict"])
    assert np.isnan(judged.structure["told_energy"]).all()
    per_atom = judged.volumes / judged.counts
    # What is left of the forces on a cell at this `fmax` moves a volume by a thousandth.
    assert per_atom[2] == pytest.approx(per_atom[3], rel=3e-3)
    accepted = results["accepted"].get_frames()
    assert accepted.formulas() == ["AuCu3", "Cu"]
    assert results["referees"]["emt"]["converged"] == 3
    labels = [link.link_label for link in node.base.links.get_outgoing().all()]
    assert {"score", "judge_emt", "judge_told", "score_again"} <= {*labels}


def test_nothing_goes_to_the_referees_when_nothing_meets_the_rules(engine_code: Any) -> None:
    builder = ValidateWorkChain.get_builder_from_protocol(
        engine_code,
        metals(),
        overrides={"rules": {"max_n_atoms": 0}, "score": {"settings": {"processes": 1}}},
        referees={"emt": {"referee": "ase", "code": engine_code, "settings": EMT}},
    )
    results, node = run_get_node(builder)
    assert node.exit_status == 702
    assert "scored" in results
    assert "judged" not in results
    assert len(node.called) == 2  # the scoring and the choice


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"referees": {"emt": {"code": "emt"}}}, "`referees.emt`.*'code'.*not of the right type"),
        ({"referees": {"emt": {"settings": {"fmix": 1}}}}, "`referees.emt`.*did you mean 'fmax'"),
        ({"referees": {"2b": {}}}, "`referees.2b`: a name is a letter"),
        ({"referees": {"energy": {}}}, "other labels and rules begin with 'energy_'"),
        ({"referees": {"scored": {}}}, "other labels and rules begin with 'scored_'"),
        ({"referees": {"my__emt": {}}}, "`referees.my__emt`: a name is .* single _"),
        ({"referees": {"emt_": {}}}, "`referees.emt_`: a name is .* none at the end"),
        (
            {"referees": {"emt": {}}, "rules": {"max_emt_above_hull": 0.1}},
            "emt_above_hull needs phases to measure against; give `references` of `referees.emt`",
        ),
        ({"rules": {"max_unchecked": 0}}, "unchecked says nothing"),
        ({"referees": {"emt": {"sets": 1}}}, "'sets' is no input of referees.emt; did you mean"),
        ({"referees": {"emt": {"label": "x"}}}, "`referees.emt`: label is given by"),
        ({"referees": {"ems": {"referee": "ams"}}}, "'ams' is no referee; did you mean"),
        ({"adopt": "emt"}, "`adopt` is 'emt', but the `referees` are: none"),
        ({"max_judged": 0}, "`max_judged` is 0, must be between 1 and"),
        ({"rules": {"xtb_verdict": "converged"}}, "'xtb_verdict' is no rule"),
    ],
)
def test_refused_at_submission(engine_code: Any, change: dict[str, Any], says: str) -> None:
    referees = {
        name: {"code": engine_code, "settings": EMT, "referee": "ase", **parts}
        for name, parts in change.pop("referees", {}).items()
    }
    assert re.search(says, refusal(engine_code, metals(), overrides=change, referees=referees))


@pytest.mark.parametrize(
    ("referees", "says"),
    [
        (["emt"], "`referees` must be a table, is a list"),
        ({1: {}}, "`referees`: a name must be text, is 1"),
        ({"emt": "code"}, "`referees.emt` must be a table such as"),
    ],
)
def test_referees_of_a_wrong_kind_are_named(engine_code: Any, referees: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        ValidateWorkChain.get_builder_from_protocol(engine_code, metals(), referees=referees)


def refusal(*args: Any, **inputs: Any) -> str:
    """What the builder, or else a submission, says against these inputs."""
    try:
        builder = ValidateWorkChain.get_builder_from_protocol(*args, **inputs)
    except ValueError as error:
        return str(error)
    return refused(ValidateWorkChain, builder)


@pytest.mark.parametrize(
    ("rules", "first"),
    [
        ({"valid": True, "limit": 5}, {"valid": True}),
        ({"max_xtb_rmsd": 1.0, "xtb_verdict": "converged"}, {}),
        ({"sort": "-xtb_energy", "limit_per_composition": 1}, {}),
        (
            {"sort": "density", "limit_per_composition": 1},
            {"sort": "density", "limit_per_composition": 1},
        ),
    ],
)
def test_rules_that_cannot_wait(rules: dict[str, Any], first: dict[str, Any]) -> None:
    assert rules_before(rules, ["xtb"]) == first


def test_candidates_are_the_lowest_of_those_that_meet_the_rules() -> None:
    frames = metals(energy_per_atom=np.array([0.3, 0.1, np.nan, 0.4]), good=np.array([1, 0, 1, 1]))
    rules = orm.Dict({"good": 1, "xtb_verdict": "converged", "limit": 1})
    chosen = choose_candidates(frames, rules, orm.Int(2), orm.List(["xtb"]))
    assert chosen.get_frames().structure["scored_row"].tolist() == [0, 3]


def test_each_composition_sends_its_best_first() -> None:
    rules, referees = orm.Dict({"sort": "xtb_energy", "limit": 1}), orm.List(["xtb"])
    frames = metals(energy_per_atom=np.array([0.1, 0.4, 0.3, 0.2]))  # Cu, Fe, Cu3Au, Cu4

    def sent(frames: FramesData, rules: orm.Dict = rules) -> list[int]:
        chosen = choose_candidates(frames, rules, orm.Int(3), referees)
        found: list[int] = chosen.get_frames().structure["scored_row"].tolist()
        return found

    assert sent(frames) == [0, 2, 1]
    assert sent(frames, orm.Dict({"sort": "energy_per_atom"})) == [0, 3, 2]
    # Of substituted ones, which E~ does not order, the most similar.
    bare = frames.get_frames()
    steps = {"substitution_distance": np.array([2.0, 1.0, np.nan, 0.0])}
    assert sent(FramesData(bare.with_labels(structure=steps))) == [3, 1, 0]
    steps = {"substitution_distance": np.full(4, np.nan)}
    assert sent(FramesData(bare.with_labels(structure=steps))) == [0, 2, 1]


def test_who_judged_other_structures_is_refused(diamond_frames: Frames) -> None:
    told = orm.Dict({"adopt": "", "failed": {}})
    _, node = join_verdicts.run_get_node(metals(), told, judge_emt=FramesData(diamond_frames))
    assert node.exit_status == 202
    assert "'emt' judged other structures" in node.exit_message
