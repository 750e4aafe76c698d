"""What the options that choose structures mean."""

from __future__ import annotations

from typing import Any

import pytest

from aiida_rm.cli.data.selecting import TEXTS, choose, parse_rules
from aiida_rm.engine.frames import Frames


@pytest.fixture
def frames() -> Frames:
    """Four molecules, whose names and formulas look like something else."""
    pair = [[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]]
    numbers = [[49, 9], [7, 8], [11, 7], [6, 8]]
    names = ["9008564", "no", "1e3", "[CO]"]
    return Frames.build(numbers, [pair] * 4, structure={"name": names, "fmax": [1e-3, 1, 2, 3]})


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("formula=InF", 0),
        ("formula=NO", 1),
        ("formula=NaN", 2),
        ("formula=[CO]", 3),
        ("name=9008564", 0),
        ("name=no", 1),
        ("name=1e3", 2),
        ("name='[CO]'", 3),
        ("max_fmax=1e-3", 0),
    ],
)
def test_text_stays_text(frames: Frames, rule: str, wanted: int) -> None:
    assert choose(frames, None, [rule], None, None).tolist() == [wanted]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.rules.formula=NO", "NO"),
        ("a.settings.formulas=[NO, InF]", ["NO", "InF"]),
        ("a.name=a: b", "a: b"),
        ("a.name=[C", "[C"),
        ("rules.match=null", None),
        ("rules.match='null'", "null"),
        ("a.rate=1e-3", 1e-3),
        ("a.rate=.5", 0.5),
        ("a.device=nan", "nan"),
        ("a.device=infinity", "infinity"),
        ("a.smact=false", False),
        ("rounds=3", 3),
    ],
)
def test_values_of_overrides(text: str, value: Any) -> None:
    found = parse_rules([text], TEXTS, "override")[text.partition("=")[0]]
    assert (found, type(found)) == (value, type(value))
