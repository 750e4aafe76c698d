"""What the tests of jobs, parsers and work chains share: small outputs of the engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from aiida import orm
from aiida.common.links import LinkType
from aiida.plugins import CalculationFactory
from aiida.plugins.entry_point import format_entry_point_string

from aiida_rm.engine import files
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.labels import SCORED
from aiida_rm.engine.settings import PerturbSettings


def perturbed(frames: Frames, copies: int = 3) -> Frames:
    """Frames with the labels of task perturb."""
    many = concatenate([frames.without_labels()] * copies)
    size = len(many)
    return many.with_labels(
        structure={
            "stress": np.zeros((size, 3, 3)),
            "energy": np.zeros(size),
            "parent": np.tile(np.arange(len(frames)), copies),
            "level": np.ones(size),
            "strain": np.zeros(size),
            "reference_volume": many.volumes,
            "core_scale": np.full(size, PerturbSettings().core_scale),
            "core_strength": np.full(size, PerturbSettings().core_strength),
        },
        atom={"force": np.zeros((many.n_atoms, 3))},
    )


def generated(frames: Frames, first: int = 0) -> Frames:
    """Frames with the labels of task generate."""
    size = len(frames)
    return frames.without_labels().with_labels(
        structure={
            "index": np.arange(first, first + size),
            "seed": np.zeros(size, np.int64),
            "start": np.full(size, -1),
            "start_spacegroup": np.ones(size, np.int64),
            "substitution_distance": np.full(size, np.nan),
            "energy": np.linspace(0.1, 0.2, size),
            "energy_per_atom": np.linspace(0.05, 0.1, size),
            "energy_percentile": np.linspace(0.0, 100.0, size),
            "latent_distance": np.linspace(0.5, 2.0, size),
            "latent_percentile": np.linspace(0.0, 100.0, size),
            "ranking": np.linspace(0.0, 1.0, size),
            "fmax": np.full(size, 1e-4),
            "steps": np.full(size, 10),
            "status": np.zeros(size, np.int8),
        }
    )


def scored(frames: Frames) -> Frames:
    """Frames with the labels of task score, all of them valid, unique and novel."""
    size = len(frames)
    values = {"b": np.ones(size, bool), "U": np.array([""] * size, "<U1")}
    labels = {name: values.get(kind, np.zeros(size, kind)) for name, kind in SCORED.items()}
    labels["spacegroup"] = np.full(size, 227, np.int16)
    return frames.with_labels(structure=labels)


def results(task: str, **changes: Any) -> dict[str, Any]:
    """Content of results.json of a finished job."""
    return {
        "schema": 1,
        "task": task,
        "status": "finished",
        "stop_reason": "completed",
        "error": None,
        "engine": {"version": "0.1.0", "torch": "2.13.0", "device": "cpu", "threads": 1},
        "wall_seconds": 1.5,
        "summary": {},
        **changes,
    }


def failed(task: str, code: str, message: str = "the culprit and the remedy") -> dict[str, Any]:
    """Content of results.json of a job that failed by a known error."""
    error = {"code": code, "message": message}
    return results(task, status="failed", stop_reason=None, error=error)


def write_results(folder: Path, content: dict[str, Any] | bytes | None) -> None:
    """Write results.json, or foreign bytes under its name."""
    if content is not None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / files.RESULTS).write_bytes(data)


def job_node(
    task: str,
    computer: orm.Computer,
    inputs: dict[str, orm.Node],
    retrieved: Path,
    exit_status: int | None = None,
) -> orm.CalcJobNode:
    """A stored job with a folder of retrieved files, as a parser finds it."""
    name = f"rm.{task}"
    CalculationFactory(name)
    node = orm.CalcJobNode(
        computer=computer, process_type=format_entry_point_string("aiida.calculations", name)
    )
    node.set_options(
        {
            "resources": {"num_machines": 1, "num_mpiprocs_per_machine": 1},
            "scheduler_stderr": "_scheduler-stderr.txt",
            "scheduler_stdout": "_scheduler-stdout.txt",
            "parser_name": name,
        }
    )
    for label, value in {"settings": orm.Dict({}), **inputs}.items():
        value.store()
        node.base.links.add_incoming(value, link_type=LinkType.INPUT_CALC, link_label=label)
    node.store()
    if exit_status is not None:
        node.set_exit_status(exit_status)
    folder = orm.FolderData()
    folder.base.repository.put_object_from_tree(str(retrieved))
    folder.base.links.add_incoming(node, link_type=LinkType.CREATE, link_label="retrieved")
    folder.store()
    return node
