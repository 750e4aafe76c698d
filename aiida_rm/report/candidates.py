"""The best structures of a run, with all that is known of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.report.run import Round, Run
from aiida_rm.workflows.candidates import SCORED_ROW

#: The label of :func:`select_frames`: the row in what it selected from.
_SOURCE_ROW = "source_index"


@dataclass(frozen=True)
class Candidate:
    """One structure.

    Attributes:
        round: name of its round.
        pk: of the node that holds it as it is shown here.
        row: where in that node.
        found_row: where among all that the round generated.
        frames: the structure alone: as it was accepted, else as referees left it, else as it was
            generated.
        labels: one value each, of all of these nodes.
        accepted: whether it joined the dataset.
    """

    round: str
    pk: int
    row: int
    found_row: int
    frames: Frames
    labels: Mapping[str, Any]
    accepted: bool


def best_candidates(run: Run, most: int) -> list[Candidate]:
    """The accepted of each round, then its other unique and valid ones, lowest E~ first.

    Args:
        run: the run.
        most: structures in all; the rounds share them evenly.
    """
    rounds = [one for one in run.rounds if one.found is not None]
    best: list[Candidate] = []
    for number, one in enumerate(rounds):
        # What a round leaves the later ones get.
        best += _of_round(one, (most - len(best)) // (len(rounds) - number))
    return best


def accepted_rows(one: Round) -> NDArray[np.int64]:
    """(N,) rows of a round's ``found`` that were accepted."""
    if one.accepted is None:
        return np.zeros(0, np.int64)
    rows = one.accepted.get_frames().structure.get(_SOURCE_ROW)
    if rows is None:
        return np.zeros(0, np.int64)
    if one.judged is not None:
        rows = one.judged.get_frames().structure[SCORED_ROW][rows]
    return np.asarray(rows, np.int64)


def _of_round(one: Round, most: int) -> list[Candidate]:
    found = one.found
    assert found is not None
    frames = found.get_frames()
    labels = frames.structure
    good = np.ones(len(frames), bool)
    for name in ("valid", "unique"):
        if name in labels:
            good &= labels[name].astype(bool)
    accepted = {int(row): place for place, row in enumerate(accepted_rows(one))}
    judged = _judged_rows(one)
    energies = np.asarray(labels.get("energy_per_atom", np.zeros(len(frames))), float)
    order = np.lexsort(
        (np.nan_to_num(energies, nan=np.inf), ~np.isin(range(len(frames)), [*accepted]))
    )
    rows = [int(row) for row in order if good[row] or int(row) in accepted][:most]
    return [_candidate(one, found, row, judged.get(row), accepted.get(row)) for row in rows]


def _judged_rows(one: Round) -> dict[int, int]:
    if one.judged is None:
        return {}
    rows = one.judged.get_frames().structure.get(SCORED_ROW, np.zeros(0, np.int64))
    return {int(row): place for place, row in enumerate(rows)}


def _candidate(
    one: Round, found: FramesData, row: int, judged: int | None, accepted: int | None
) -> Candidate:
    node: Any = found
    place = row
    labels = _labels(found.get_frames(), row)
    for other, other_place in ((one.judged, judged), (one.accepted, accepted)):
        if other is not None and other_place is not None:
            node, place = other, other_place
            labels |= _labels(other.get_frames(), other_place)
    frame = node.get_frames()[place]
    return Candidate(one.name, node.pk, place, row, frame, labels, accepted is not None)


def _labels(frames: Frames, row: int) -> dict[str, Any]:
    return {
        name: values[row].item() for name, values in frames.structure.items() if values.ndim == 1
    }
