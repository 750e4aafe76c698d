"""What qm7b.py and mp_compositions.py share: their options, the run, and what it tells."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from isolated import FOLDER, open_profile
from live import LiveView
from rich.console import Console
from rich.markup import escape
from rich.table import Table

#: A training to see that everything works; its potential is worth nothing.
TINY: dict[str, dict[str, Any]] = {
    "perturb": {"samples": 40},
    "train": {"epochs": 2, "channels": 4, "features": 8, "hidden": [8]},
}
#: What the columns are called on the screen.
HEADS = {
    "energy_per_atom": "E~ / atom",
    "latent_percentile": "unlike (%)",
    "match": "known as",
    "smiles": "SMILES",
    "spacegroup": "space group",
    "substitution_distance": "distance",
    "volume_per_atom": "A^3 / atom",
}
#: A table is not cut where nobody sees it, in a file.
console = Console(width=max(Console().width, 110))


def options(doc: str, dataset: str, formulas: str) -> argparse.ArgumentParser:
    """The options of both, with the help of what differs."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path, help=dataset)
    parser.add_argument("--formulas", nargs="+", required=True, metavar="FORMULA", help=formulas)
    parser.add_argument("--starts", type=int, default=20, help="starts for each formula")
    parser.add_argument("--best", type=int, default=5, help="structures of each formula to show")
    parser.add_argument(
        "--potential", type=Path, help="a trained one (*.safetensors); without it, one is trained"
    )
    parser.add_argument(
        "--committee",
        type=Path,
        nargs="+",
        metavar="FILE",
        default=[],
        help="others of another seed, which judge beside --potential",
    )
    parser.add_argument("--protocol", default="balanced", help="fast, balanced or stringent")
    parser.add_argument("--samples", type=int, help="perturbed structures, not the protocol's")
    parser.add_argument("--epochs", type=int, help="of the training, not the protocol's")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers")
    parser.add_argument(
        "--tiny", action="store_true", help="a training of seconds, to see that everything works"
    )
    return parser


def main(name: str, given: argparse.Namespace, generation: dict[str, Any]) -> int:
    """Read, run, tell; the exit status of a script.

    Args:
        name: of the script, for messages.
        given: what :func:`options` were given.
        generation: further settings of the search.
    """
    if not given.dataset.exists():
        sys.exit(f"{name}: there is no dataset {given.dataset}")
    if given.committee and given.potential is None:
        sys.exit(f"{name}: --committee judges beside a --potential; give that, too")
    for file in (*([given.potential] if given.potential else []), *given.committee):
        if not file.is_file():
            sys.exit(f"{name}: there is no potential {file}")
    code = open_profile(console)

    # AiiDA can be imported only now that it knows where its profile is.
    from aiida_rm.data.frames import FramesData, InvalidFramesError

    try:
        dataset = FramesData.from_file(given.dataset, label=given.dataset.name)
        console.print(f"{escape(given.dataset.name)}: {len(dataset)} structures")
        node, scored = search(code, dataset, given, generation)
    except (InvalidFramesError, ValueError) as error:
        told = re.sub(r"^Error occurred validating port '[^']*': ", "", str(error))
        sys.exit(f"{name}: {told}")
    if scored is None:
        why = escape(node.exit_message or "")
        console.print(f"[red]no structures:[/] <{node.pk}> ended with {why}")
        return 1
    tell(node, scored, given)
    return 0


def search(
    code: Any, dataset: Any, given: argparse.Namespace, generation: dict[str, Any]
) -> tuple[Any, Any]:
    """One round of rm.loop; with a potential, rm.generate and rm.validate alone.

    Returns:
        The process that ran last, and all structures with their verdicts (None without any).
    """
    from aiida.engine import run_get_node

    from aiida_rm.data.potential import PotentialData
    from aiida_rm.workflows.generate import GenerateWorkChain
    from aiida_rm.workflows.loop import LoopWorkChain
    from aiida_rm.workflows.validate import ValidateWorkChain

    generate = {
        "seed": given.seed,
        "formulas": given.formulas,
        "n_structures": given.starts * len(given.formulas),
        **generation,
    }
    known = known_of(dataset, given.formulas)
    starts = dataset if generation.get("seeding") == "substitute" else None
    with LiveView(FOLDER / "scratch", console, rounds=1):
        if given.potential is None:
            overrides = {
                "rounds": 1,
                **({"committee_size": 0} if given.tiny else {}),
                "perturb": {"settings": knobs(given, "perturb", samples=given.samples)},
                "train": {"train": {"settings": knobs(given, "train", epochs=given.epochs)}},
                "generate": {"generate": {"settings": generate}},
            }
            builder = LoopWorkChain.get_builder_from_protocol(
                code,
                dataset,
                protocol=given.protocol,
                overrides=overrides,
                known=known,
                starts=starts,
            )
            outputs, node = run_get_node(builder)
            return node, outputs.get("scored", {}).get("round_01")
        builder = GenerateWorkChain.get_builder_from_protocol(
            code,
            PotentialData(given.potential, label=given.potential.name),
            protocol=given.protocol,
            starts=starts,
            committee=[PotentialData(file, label=file.name) for file in given.committee],
            overrides={"generate": {"settings": generate}},
        )
        outputs, node = run_get_node(builder)
        if "frames" not in outputs:
            return node, None
        builder = ValidateWorkChain.get_builder_from_protocol(
            code,
            outputs["frames"],
            protocol=given.protocol,
            references=dataset,
            known=known,
        )
        outputs, node = run_get_node(builder)
        return node, outputs.get("scored")


def knobs(given: argparse.Namespace, task: str, **asked: Any) -> dict[str, Any]:
    """Settings of a task that are not the protocol's."""
    small = TINY[task] if given.tiny else {}
    asked = {name: value for name, value in asked.items() if value is not None}
    return {"seed": given.seed, **small, **asked}


def known_of(dataset: Any, formulas: list[str]) -> Any:
    """Those of the dataset that have one of these compositions, by their ids; None without any."""
    import numpy as np

    from aiida_rm.data.frames import FramesData
    from aiida_rm.queries.tables import reduced

    frames = dataset.get_frames()
    wanted = {reduced(formula) for formula in formulas}
    rows = [row for row, own in enumerate(frames.formulas()) if reduced(own) in wanted]
    if not rows:
        return None
    ids = frames.structure.get("id", np.arange(len(frames)).astype(str))
    part = frames.select(rows).without_labels()
    known = FramesData(part.with_labels(structure={"name": np.asarray(ids)[rows]}))
    known.label = f"{', '.join(formulas)} of {dataset.label}"[:255]
    return known


def tell(node: Any, scored: Any, given: argparse.Namespace) -> None:
    """Print the verdicts by formula, the best of each, and how to look further."""
    import numpy as np
    from aiida import orm

    from aiida_rm.calculations.functions import extract_structure
    from aiida_rm.queries import best, structures

    found = structures(scored)
    kind = {"sound": True} if scored.pbc_kind == "molecule" else {}
    verdicts = ["converged", *kind, "valid", "unique", "novel"]
    counts = found.groupby("formula")[verdicts].sum()
    _print("Verdicts", ["starts", *verdicts], counts.assign(starts=found.groupby("formula").size()))

    rules = {"valid": True, "unique": True, **kind}
    like = scored.get_frames().structure["substitution_distance"]
    by = "ranking" if np.isnan(like).all() else "substitution_distance"
    order = {"sort": by, "limit_per_composition": given.best}
    table = best(scored, len(scored), rules={**rules, **order})
    if len(table):
        nodes = [extract_structure(scored, orm.Int(int(row))) for row in table["index"]]
        table["structure"] = [f"<{one.pk}>" for one in nodes]
        table = table.sort_values(["formula", by]).set_index("formula")
        shown = [by, "energy_per_atom", "latent_percentile", "match", "novel"]
        shown += ["smiles"] if kind else ["spacegroup", "volume_per_atom"]
        _print(f"The best that are {', '.join(rules)}", [*shown, "structure"], table)

    else:
        console.print(f"None is {', '.join(rules)}.")
        rules = {}

    console.print("\nLook further:")
    rule = "".join(f" --rule {name}=true" for name in rules)
    for line in (
        f"export AIIDA_PATH={FOLDER}",
        f"verdi data rm.frames show {scored.pk}{rule} --sort {by}",
        f"verdi data rm.frames export {scored.pk}{rule} -o found.extxyz",
        f"aiida-rm report {node.pk}",
    ):
        console.print(f"  {escape(line)}", soft_wrap=True)


def _print(title: str, columns: list[str], rows: Any) -> None:
    table = Table(title=title, title_justify="left")
    names = [name for name in columns if name in rows]
    for name in ("formula", *names):
        table.add_column(HEADS.get(name, name))
    for formula, row in rows[names].iterrows():
        table.add_row(str(formula), *(_text(value) for value in row))
    console.print(table)


def _text(value: Any) -> str:
    # A SMILES has brackets, which rich would take for a style.
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
