"""The report of a run: one HTML file that needs nothing else, not even a network."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, cast

import spglib
from aiida import orm

from aiida_rm import __version__
from aiida_rm.data.export import to_text
from aiida_rm.engine.errors import FramesError
from aiida_rm.report.candidates import Candidate, best_candidates
from aiida_rm.report.charts import to_plotly
from aiida_rm.report.drawings import charts_of
from aiida_rm.report.provenance import BOX, Drawer, Picture
from aiida_rm.report.run import Run, read_run
from aiida_rm.report.scene import make_scene, thumbnail
from aiida_rm.states import state_of

#: Labels that the table of a structure shows first, with what they are called.
_FIRST = {
    "energy_per_atom": "E~ per atom (Å²)",
    "energy_percentile": "its place among the dataset's (%)",
    "latent_percentile": "how unlike the dataset (%)",
    "volume_per_atom": "volume per atom (Å³)",
    "density": "density (g/cm³)",
    "spacegroup": "space group",
    "match": "known as",
    "smiles": "SMILES",
    "verdict": "chemistry",
    "uncertainty": "uncertainty (Å)",
    "min_distance": "shortest distance (Å)",
}
#: Likewise what a referee says, after its name.
_SAID = {
    "verdict": "verdict",
    "above_hull": "above the hull (eV per atom)",
    "energy_per_atom": "energy (eV per atom)",
    "rmsd": "moved (Å)",
    "note": "note",
}
#: What the engine tells of the versions that it ran with.
_ENGINE = ("version", "torch", "python")
_MISSING = "the report needs {names}; install aiida-rm[report]"


def write_report(node: orm.Node, path: str | os.PathLike[str], *, most: int = 24) -> Path:
    """Write the report of a process.

    Args:
        node: the process, or something that it made.
        path: the HTML file; it appears only when whole.
        most: structures that are shown one by one.

    Raises:
        ValueError: no process of this plugin stands behind the node.
        ImportError: a library of the extra ``report`` is missing.
    """
    target = Path(path)
    text = make_page(read_run(node), most)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.writing")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(target)
    return target


def make_page(run: Run, most: int) -> str:
    """The HTML of the report."""
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ImportError(_MISSING.format(names="plotly and jinja2")) from error
    candidates = best_candidates(run, most)
    charts = charts_of(run, candidates)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("aiida_rm.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    pictures = _pictures(candidates)
    rows = [dict(one.row) for one in run.rounds if one.row]
    # Such as the uncertainty where there is no committee.
    said = (
        [name for name in rows[0] if any(row.get(name) is not None for row in rows)] if rows else []
    )
    return environment.get_template("report.html").render(
        title=f"{run.node.process_label} {run.node.pk}",
        story=_story(run),
        charts=charts,
        rounds=[{name: row.get(name) for name in said} for row in rows],
        structures=[_structure(c, pictures) for c in candidates],
        pictures=pictures,
        box=BOX,
        jobs=[_job(job) for job in run.jobs],
        reproduce=_reproduce(run),
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        # In a script element only `<` could end it.
        payload=_script_safe(
            {
                "charts": {chart.name: to_plotly(chart) for chart in charts},
                "scenes": [make_scene(c.frames) for c in candidates],
            }
        ),
        plotly=get_plotlyjs(),
        style=_static("report.css"),
        script=_static("report.js"),
    )


def _static(name: str) -> str:
    return resources.files("aiida_rm.report").joinpath("templates", name).read_text("utf-8")


def _script_safe(value: Any) -> str:
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _story(run: Run) -> dict[str, Any]:
    node = run.node
    found = sum(len(one.found) for one in run.rounds if one.found is not None)
    accepted = sum(len(one.accepted) for one in run.rounds if one.accepted is not None)
    return {
        "label": node.label or node.process_label,
        "description": node.description,
        "facts": {
            "process": f"{node.process_label} <{node.pk}>",
            "UUID": node.uuid,
            "state": _state(node),
            "began": f"{node.ctime:%Y-%m-%d %H:%M %Z}",
            "last change": f"{node.mtime:%Y-%m-%d %H:%M %Z}",
            "jobs": f"{len(run.jobs)} on {', '.join(_computers(run)) or 'no computer'}",
            "versions": ", ".join(f"{name} {value}" for name, value in _versions(run).items()),
        },
        "dataset": None
        if run.dataset is None
        else {
            "pk": run.dataset.pk,
            "structures": run.dataset.n_structures,
            "atoms": run.dataset.n_atoms,
            "elements": ", ".join(run.dataset.elements),
        },
        "rounds": len(run.rounds),
        "generated": found,
        "accepted": accepted,
    }


def _state(node: Any) -> str:
    if node.is_finished and not node.is_finished_ok:
        return f"ended with [{node.exit_status}] {node.exit_message or ''}".strip()
    return state_of(node)


def _computers(run: Run) -> list[str]:
    return sorted({job.computer.label for job in run.jobs if job.computer is not None})


def _versions(run: Run) -> dict[str, str]:
    versions = dict(run.node.base.attributes.get("version", {}))
    found = {"aiida-core": versions.get("core"), "aiida-rm": versions.get("plugin")}
    for job in run.jobs:
        if "results" in job.outputs:
            engine = job.outputs.results.get_dict().get("engine") or {}
            found |= {name if name != "version" else "engine": engine.get(name) for name in _ENGINE}
            break
    return {name: str(value) for name, value in found.items() if value}


def _structure(candidate: Candidate, pictures: Mapping[int, Picture]) -> dict[str, Any]:
    labels = candidate.labels
    titles = {**_FIRST, **_of_referees(labels)}
    first = {title: _shown(labels[name]) for name, title in titles.items() if name in labels}
    if "spacegroup" in labels:
        first[_FIRST["spacegroup"]] = _space_group(labels["spacegroup"])
    rest = {name: _shown(value) for name, value in sorted(labels.items()) if name not in titles}
    return {
        "title": candidate.frames.formula(0),
        "round": candidate.round,
        "accepted": candidate.accepted,
        "pk": candidate.pk,
        "row": candidate.row,
        "first": {name: value for name, value in first.items() if value},
        "rest": {name: value for name, value in rest.items() if value},
        "picture": thumbnail(candidate.frames),
        "downloads": _downloads(candidate.frames),
        "provenance": candidate.pk if candidate.pk in pictures else None,
    }


def _of_referees(labels: Mapping[str, Any]) -> dict[str, str]:
    """Titles of what the referees said."""
    names = [name.removesuffix("_verdict") for name in labels if name.endswith("_verdict")]
    return {f"{name}_{part}": f"{name}: {title}" for name in names for part, title in _SAID.items()}


def _pictures(candidates: Sequence[Candidate]) -> dict[int, Picture]:
    drawer, load = Drawer(), cast("Callable[[int], orm.Data]", orm.load_node)
    return {pk: drawer.draw(load(pk)) for pk in dict.fromkeys(c.pk for c in candidates)}


def _downloads(frames: Any) -> dict[str, str]:
    """Contents by the endings of files."""
    texts = {"extxyz": to_text(frames, "extxyz")}
    if frames.pbc.all():
        with suppress(FramesError):
            texts["cif"] = to_text(frames.without_labels(), "cif")
    return texts


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.5g}"
    return str(value)


def _space_group(number: Any) -> str:
    """Its symbol and number; empty where none was found."""
    symbol = _symbols().get(number) if isinstance(number, int) else None
    if symbol is None:
        return "" if number == 0 else _shown(number)
    return f"{symbol} ({number})"


@cache
def _symbols() -> dict[int, str]:
    """Short symbols of the space groups by their numbers."""
    # Settings of one group follow each other, the standard one first.
    kinds = [spglib.get_spacegroup_type(hall) for hall in range(530, 0, -1)]
    return {kind.number: kind.international_short for kind in kinds if kind is not None}


def _job(job: orm.CalcJobNode) -> dict[str, Any]:
    inputs = job.inputs
    settings = inputs.settings.get_dict() if "settings" in inputs else {}
    return {
        "pk": job.pk,
        "label": job.process_label,
        "state": _state(job),
        "seed": settings.get("seed"),
        "settings": json.dumps(settings, indent=1, sort_keys=True),
    }


def _reproduce(run: Run) -> dict[str, str]:
    node = run.node
    return {
        "look": "\n".join(
            [
                f"verdi process show {node.uuid}",
                f"verdi process report {node.uuid}",
                f"verdi node graph generate {node.uuid}",
            ]
        ),
        "share": f"verdi archive create study.aiida --nodes {node.uuid}",
        "again": "\n".join(
            [
                "from aiida import load_profile, orm",
                "from aiida.engine import submit",
                "",
                "load_profile()",
                f'builder = orm.load_node("{node.uuid}").get_builder_restart()',
                "submit(builder)",
            ]
        ),
    }
