"""What chance gives beside the match rates."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from aiida_rm.engine.converters import from_ase
from aiida_rm.engine.scoring.null import any_of_k, beside_null
from aiida_rm.engine.scoring.task import score
from aiida_rm.engine.settings import ScoreSettings
from tests.engine.scoring.test_recognition import suite
from tests.engine.scoring.test_solids import materials, rock_salt

ONE = ScoreSettings(processes=1, smact="off")


@pytest.mark.parametrize("total", [1, 4, 6])
def test_any_of_k_is_the_mean_over_all_draws(total: int) -> None:
    for hits in range(total + 1):
        for k in range(1, total + 1):
            draws = [any(place < hits for place in draw) for draw in combinations(range(total), k)]
            assert any_of_k(hits, total, k) == pytest.approx(np.mean(draws))


def test_rates_at_equal_k_and_equal_mix() -> None:
    salt, iron, gold = (("Na", 1), ("Cl", 1)), (("Fe", 1),), (("Au", 1),)
    samples = dict(enumerate([salt] * 3 + [iron] * 1 + [gold] * 5))
    null = dict(enumerate([salt] * 2 + [iron] * 4))
    found = beside_null(samples, [0, 3, 4, 5], null, [1, 2])
    assert found["compositions"] == 2
    assert found["k"] == 1.5
    # Salt: 1 of 3 against 1 of 2, at k = 2; iron: 1 of 1 against 1 of 4, at k = 1.
    assert found["samples"] == {
        "per_sample": pytest.approx(2 / 4),
        "any_of_k": pytest.approx((2 / 3 + 1) / 2),
    }
    assert found["null"] == {
        "per_sample": pytest.approx((3 / 2 + 1 / 4) / 4),
        "any_of_k": pytest.approx((1 + 1 / 4) / 2),
    }
    assert found["ratio"] == {
        "per_sample": pytest.approx(0.5 / 0.4375),
        "any_of_k": pytest.approx((5 / 6) / (5 / 8)),
    }


def test_nothing_found_by_chance() -> None:
    samples = {0: (("Fe", 1),)}
    assert beside_null(samples, [0], samples, [])["ratio"] == {"per_sample": None, "any_of_k": None}
    assert beside_null(samples, [0], {}, []) == {"compositions": 0}


def salts(seeds: int) -> list[Atoms]:
    """NaCl in cells and places at random, all valid."""
    rng = np.random.default_rng(seeds)
    return [
        Atoms("NaCl", [[0, 0, 0], rng.uniform(1.5, 2.5, 3)], cell=rng.uniform(3, 5, 3), pbc=True)
        for _ in range(seeds)
    ]


def test_in_the_summary() -> None:
    known = from_ase([rock_salt(), bulk("Cu")]).with_labels(structure={"name": ["salt", "copper"]})
    lost = rock_salt()
    lost.positions[0] = np.nan
    frames = from_ase([rock_salt(), lost])
    null = from_ase([*salts(3), rock_salt(), molecule("CH4"), bulk("Cu"), bulk("Cu")])
    # Unrelaxed starts count all the same.
    null = null.with_labels(structure={"status": np.ones(len(null), np.int8)})
    scored, summary = score(frames, ONE, known=known, null=null)
    assert len(scored) == 2
    found = summary["crystals"]["recognition"]
    strict = found["match"]["beside_null"]
    assert (strict["compositions"], strict["k"]) == (1, 2)
    assert strict["samples"] == {"per_sample": 0.5, "any_of_k": 1.0}
    # The same as scoring the null by itself says.
    alone = score(null.without_labels(), ONE, known=known)[1]["crystals"]["recognition"][
        "by_composition"
    ]["NaCl"]
    assert strict["null"]["per_sample"] == alone["matched"] / alone["samples"]
    line = found["by_composition"]["NaCl"]
    assert (line["null"], line["null_matched"]) == (4, alone["matched"])
    assert line["null_matched_loose"] == alone["matched_loose"] >= 1
    plain = score(frames, ONE, known=known)[1]["crystals"]["recognition"]
    assert "beside_null" not in plain["match"]
    assert "null" not in plain["by_composition"]["NaCl"]
    assert "recognition" not in score(frames, ONE, null=null)[1]["crystals"]


@pytest.mark.slow
def test_chance_on_the_suite() -> None:
    """Twenty unrelaxed random starts each find about three of the fifteen, and hardly any tight."""
    from aiida_rm.engine.frames import concatenate
    from aiida_rm.engine.search import make_starts
    from aiida_rm.engine.settings import GenerateSettings, parse_settings
    from aiida_rm.engine.training.statistics import describe_training_set

    known = suite()
    notes = describe_training_set(materials(1))
    parts = []
    for number, formula in enumerate(known.formulas()):
        knobs = {"formulas": [formula], "n_structures": 20, "seed": number, "min_distance": 1.0}
        settings = parse_settings(GenerateSettings, knobs)
        parts.append(make_starts(range(20), settings, notes)[0])
    starts = concatenate(parts)
    summary = score(starts, ScoreSettings(smact="off"), known=known, null=starts)[1]
    found = summary["crystals"]["recognition"]
    assert (found["samples"], found["compositions"]) == (300, 15)
    assert 1 <= round(15 * found["match_loose"]["any_of_k"]) <= 6
    assert round(15 * found["match"]["any_of_k"]) <= 2
    # The null of itself.
    for kind in ("match", "match_loose"):
        both = found[kind]["beside_null"]
        assert both["k"] == 20
        assert both["samples"] == both["null"]
        assert both["samples"]["per_sample"] == pytest.approx(found[kind]["per_sample"])
        assert both["samples"]["any_of_k"] == pytest.approx(found[kind]["any_of_k"])
