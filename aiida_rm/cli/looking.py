"""What running processes are doing, from AiiDA's database and the files of their jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import Any

from aiida import orm
from aiida.common.escaping import escape_for_bash

from aiida_rm.engine.files import METRICS
from aiida_rm.states import state_of

KINDS = ("loop", "train", "generate", "validate", "judge")
#: Of the metrics; several lines.
_TAIL_BYTES = 65536


class Looker:
    """Looks at jobs; the connections to their computers stay open until it is closed."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._transports: dict[str, Any] = {}

    def __enter__(self) -> Looker:  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rows(self, nodes: list[Any]) -> list[dict[str, Any]]:
        """A row for each job of these processes that goes on, or for the process without one.

        Returns:
            ``pk``, ``process``, ``label``, ``since``; ``round`` and ``rounds`` of a loop;
            ``stage``, ``job``, ``state``; as far as they are known ``share`` (of the work of the
            job, 0 to 1), ``epoch``, ``epochs``, ``loss``, ``rate`` (structures a second),
            ``left`` (seconds), ``note``.
        """
        return [row for node in nodes for row in self._of(node)]

    def _of(self, node: Any) -> Iterator[dict[str, Any]]:
        base = {
            "pk": node.pk,
            "process": str(node.process_type).rpartition(":")[2],
            "label": node.label,
            "since": node.ctime,
            "state": _state(node),
            **_round(node),
        }
        jobs = [one for one in _descendants(node) if isinstance(one, orm.CalcJobNode)]
        if not jobs:
            yield base
        for job in jobs:
            yield {
                **base,
                "stage": str(job.process_type).rpartition(".")[2],
                "job": job.pk,
                "state": _state(job),
                **self._metrics(job),
            }

    def _metrics(self, job: Any) -> dict[str, Any]:
        folder = job.get_remote_workdir()
        if folder is None or job.get_scheduler_state() is None:
            return {}
        try:
            transport = self._transport(job)
            path = escape_for_bash(str(PurePosixPath(folder) / METRICS))
            status, text, _ = transport.exec_command_wait(f"tail -c {_TAIL_BYTES} {path}")
        except Exception as error:  # noqa: BLE001 - every transport has errors of its own
            return {"note": f"{job.computer.label} does not answer: {error}"}
        return read(text) if status == 0 else {}

    def _transport(self, job: Any) -> Any:
        computer = job.computer
        if computer.uuid not in self._transports:
            opened = self._stack.enter_context(computer.get_transport())
            self._transports[computer.uuid] = opened
        return self._transports[computer.uuid]


def read(text: str) -> dict[str, Any]:
    """What the last whole line of a metrics file says."""
    for line in reversed(text.splitlines()):
        try:
            told = json.loads(line)
        except ValueError:
            continue  # still in writing
        if isinstance(told, dict):
            return _epoch(told) if "epoch" in told else _ticks(told)
    return {}


def _epoch(told: dict[str, Any]) -> dict[str, Any]:
    left = (told["epochs"] - told["epoch"]) * (told.get("seconds") or 0.0)
    return {
        "share": told["epoch"] / max(told["epochs"], 1),
        "epoch": int(told["epoch"]),
        "epochs": int(told["epochs"]),
        "loss": told.get("validation_loss") or told.get("loss"),
        "rate": told.get("structures_per_second"),
        "left": left,
    }


def _ticks(told: dict[str, Any]) -> dict[str, Any]:
    finished, total, seconds = (told.get(name) or 0 for name in ("finished", "total", "seconds"))
    if not total:
        return {}
    rate = finished / seconds if seconds and finished else None
    return {
        "share": finished / total,
        "rate": rate,
        "left": (total - finished) / rate if rate else None,
        "note": f"{told.get('stage', '')}: {finished} of {total}",
    }


def running() -> list[Any]:
    """The processes of this package that were started by a user and have not ended, by age."""
    query = orm.QueryBuilder()
    types = [f"aiida.workflows:rm.{kind}" for kind in KINDS]
    query.append(
        orm.WorkChainNode,
        filters={
            "process_type": {"in": types},
            "attributes.process_state": {"in": ["created", "running", "waiting"]},
        },
    )
    query.order_by({orm.WorkChainNode: {"ctime": "asc"}})
    return [node for node in query.all(flat=True) if node.caller is None]


def _descendants(node: Any) -> list[Any]:
    """Called processes that have not ended, whatever stands between."""
    found = []
    for child in sorted(node.called, key=lambda one: one.ctime):
        if not child.is_terminated:
            found += [child, *_descendants(child)]
    return found


def _round(node: Any) -> dict[str, Any]:
    if not node.process_type.endswith(":rm.loop"):
        return {}
    links = node.base.links.get_outgoing().all_link_labels()
    rounds = [
        int(label[6:8]) for label in links if label.startswith("round_") and label[6:8].isdigit()
    ]
    last = node.inputs.first_round.value + node.inputs.rounds.value - 1
    return {"round": max(rounds, default=node.inputs.first_round.value), "rounds": last}


def _state(node: Any) -> str:
    if node.is_terminated:
        return f"ended [{node.exit_status}]" if node.is_finished else state_of(node)
    scheduler = node.get_scheduler_state() if isinstance(node, orm.CalcJobNode) else None
    if node.paused:
        return "paused"
    return str(scheduler.value) if scheduler else state_of(node)
