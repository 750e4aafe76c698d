"""Referees by name, also those of other packages."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from aiida import orm
from aiida.engine import BaseRestartWorkChain

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.errors import SettingsError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.knobs import knob
from aiida_rm.referees import base
from aiida_rm.referees.functions import MAX_TEXT, check_judged, gather_verdicts

EMT = {"calculator": "ase.calculators.emt:EMT"}


@dataclass(frozen=True)
class MineSettings:
    depth: int = knob(3, "how deep it looks", low=1)


class Mine(base.Referee):
    """As the docs have it."""

    SETTINGS = MineSettings

    def jobs(self, frames: FramesData, rows: Any, code: Any) -> list[base.RefereeJob]:
        return [
            base.RefereeJob(
                tuple(rows), {"code": code, "frames": frames, "depth": self.settings.depth}
            )
        ]


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("mine", f"{__name__}:Mine", base.GROUP),
        EntryPoint("gone", "no.such.package:Referee", base.GROUP),
        EntryPoint("other", "builtins:dict", base.GROUP),
    ]
    monkeypatch.setattr(base, "entry_points", lambda group: [p for p in points if p.group == group])


def test_the_house_has_these() -> None:
    assert {"xtb", "pw", "ase", "shell"} <= set(base.known_referees())
    for name in base.known_referees():
        cls = base.load_referee(name)
        assert cls.PROCESS.spec().outputs is not None
        assert cls.PROGRAM


def test_one_of_another_package(foreign: None) -> None:
    assert base.known_referees() == ["gone", "mine", "other"]
    referee = base.load_referee("mine")({"depth": 5})
    assert referee.jobs(None, [0, 1], None)[0].rows == (0, 1)  # type: ignore[arg-type]
    assert referee.options({"account": "me"})["account"] == "me"
    with pytest.raises(SettingsError, match="'depth' is 0, must be at least 1"):
        base.load_referee("mine")({"depth": 0})


def test_a_work_chain_needs_to_say_where_its_options_are() -> None:
    class Chain(Mine):
        PROCESS = BaseRestartWorkChain

    with pytest.raises(base.RefereeError, match="BaseRestartWorkChain is no CalcJob; override"):
        Chain({}).ports()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mime", "'mime' is no referee; did you mean 'mine'[?] known: gone, mine, other"),
        ("gone", "'gone' .*cannot be imported.*install or mend its package"),
        ("other", "'other' .*is no subclass of Referee"),
    ],
)
def test_what_is_no_referee(name: str, says: str, foreign: None) -> None:
    with pytest.raises(base.RefereeError, match=says):
        base.load_referee(name)


def test_what_a_run_must_bring(molecule_frames: Frames) -> None:
    labels = {"row": [0, 1], "energy": [0.0, 1.0], "verdict": ["a", "b"], "note": ["", ""]}
    good = molecule_frames.with_labels(structure=labels)
    assert check_judged(good, 2) is None
    assert "lack the labels row" in str(check_judged(molecule_frames, 2))
    assert "row does not count" in str(check_judged(good, 1))
    assert "row does not count" in str(check_judged(good.with_labels(structure={"row": [1, 1]}), 2))


@pytest.mark.parametrize(("name", "settings"), [("xtb", {}), ("ase", EMT), ("pw", {})])
def test_a_variable_of_the_users_own_leaves_the_number_of_threads(
    name: str, settings: dict[str, Any]
) -> None:
    referee = base.load_referee(name)(settings)
    given = {"environment_variables": {"MINE": "1"}}
    found = referee.options(given)["environment_variables"]
    assert found == {"OMP_NUM_THREADS": "1", "MINE": "1"}
    given["environment_variables"]["OMP_NUM_THREADS"] = "4"
    assert referee.options(given)["environment_variables"]["OMP_NUM_THREADS"] == "4"


@pytest.mark.parametrize(
    ("name", "settings", "own"),
    [
        ("xtb", {}, ["xtbopt.xyz"]),
        ("shell", {"energy_pattern": "(x)", "energy_file": "e", "relaxed_file": "r"}, ["e", "r"]),
    ],
)
def test_files_of_the_users_own_leave_those_that_are_needed(
    name: str, settings: dict[str, Any], own: list[str]
) -> None:
    referee = base.load_referee(name)(settings)
    assert referee.options({})["additional_retrieve"] == own
    given = {"additional_retrieve": ["wbo", own[0]]}
    assert referee.options(given)["additional_retrieve"] == [*own, "wbo"]


def test_a_number_of_threads_may_be_a_number() -> None:
    given = {"environment_variables": {"OMP_NUM_THREADS": 4}, "max_wallclock_seconds": 100}
    assert "ulimit -S -t 360" in base.load_referee("xtb")({}).options(given)["prepend_text"]


def test_words_of_a_run_are_foreign(molecule_frames: Frames) -> None:
    """They go into the database, which takes no NUL, and not all that a job may write."""
    one = molecule_frames.select([0])
    said = {"row": [0], "energy": [1.0], "verdict": ["a\0b"], "note": ["x" * 5000]}
    told = orm.Dict({"rows": {"row_000000": [0]}, "verdicts": {}})
    run = FramesData(one.with_labels(structure=said))
    made = gather_verdicts(FramesData(one), orm.Str("xtb"), told, row_000000=run)
    found = made["frames"].get_frames().structure
    assert found["xtb_verdict"][0] == "ab"
    assert len(found["xtb_note"][0]) == MAX_TEXT
    assert made["results"]["reasons"] == [["ab", 1]]
