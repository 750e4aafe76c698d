"""One diamond in, new carbon out: rm.loop through AiiDA, in a profile of its own.

    python examples/diamond.py [--protocol fast|balanced|stringent] [--seed N]
        [--epochs N] [--rounds N]

Everything is stored under ``.demo`` beside this folder; your own AiiDA is not touched.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from isolated import FOLDER, open_profile
from live import LiveView
from rich.console import Console
from rich.markup import escape
from rich.table import Table

PICTURE = FOLDER / "carbon.png"
SHOWN = 8

console = Console()


def main() -> int:
    """Set up, run, show; the exit status of the loop."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--protocol", default="balanced", help="fast, balanced or stringent")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers")
    parser.add_argument("--epochs", type=int, help="of a training, instead of the protocol's")
    parser.add_argument("--rounds", type=int, help="instead of the protocol's")
    given = parser.parse_args()
    for name in ("epochs", "rounds"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            parser.error(f"--{name} must be 1 or more")
    began = time.monotonic()
    console.print("[bold]aiida-rm[/]: one diamond in, new carbon out")
    code = open_profile(console)

    # AiiDA can be imported only now that it knows where its profile is.
    from aiida.engine import run_get_node

    builder = make_builder(code, given.protocol, given.seed, given.epochs)
    if given.rounds is not None:
        builder.rounds = given.rounds
    with LiveView(FOLDER / "scratch", console, rounds=builder.rounds.value):
        outputs, node = run_get_node(builder)
    if "scored" not in outputs or not outputs["scored"]:
        why = escape(node.exit_message or "")
        console.print(f"[red]the loop ended without structures:[/] {why}")
        console.print(f"look into it with  {program('verdi', 'process report', node.pk)}")
        return 1
    show(node, outputs, time.monotonic() - began)
    return 0 if node.is_finished_ok else 1


def make_builder(code: Any, protocol: str, seed: int, epochs: int | None) -> Any:
    """The inputs of the loop: one diamond, a protocol, and known carbon to recognise."""
    from aiida import orm
    from ase.build import bulk

    from aiida_rm.calculations.functions import frames_from_structures
    from aiida_rm.data.frames import FramesData
    from aiida_rm.engine.scoring.known import carbon_allotropes
    from aiida_rm.workflows.loop import LoopWorkChain

    diamond = orm.StructureData(ase=bulk("C", "diamond", a=3.567))
    diamond.label = "diamond"
    dataset = frames_from_structures(diamond=diamond.store())
    known = FramesData(carbon_allotropes())
    known.label = "known carbon"
    seeds = {"settings": {"seed": seed}}
    training = {"seed": seed} if epochs is None else {"seed": seed, "epochs": epochs}
    overrides = {
        "perturb": seeds,
        "train": {"train": {"settings": training}},
        "generate": {"generate": seeds},
        # Carbon with three or four neighbours; this rule is for carbon, not for RM.
        "validate": {"score": {"settings": {"coordination": [3, 4]}}},
    }
    try:
        return LoopWorkChain.get_builder_from_protocol(
            code, dataset, protocol=protocol, overrides=overrides, known=known
        )
    except ValueError as error:
        sys.exit(f"diamond.py: {error}")


def show(node: Any, outputs: Any, seconds: float) -> None:
    """Print what was found, where it is, and how to look further; draw the best."""
    import numpy as np
    from aiida import orm

    from aiida_rm.calculations.functions import extract_structure
    from aiida_rm.engine.frames import concatenate
    from aiida_rm.report.figures import draw_candidates

    rounds = sorted(outputs["scored"])
    table = Table(title="What came out", title_justify="left")
    for name in ("round", "starts", "converged", "valid", "unique", "novel", "frames"):
        table.add_column(name, justify="right")
    for key in rounds:
        labels = outputs["scored"][key].get_frames().structure
        counts = [int(labels[name].sum()) for name in ("converged", "valid", "unique", "novel")]
        row = [key.removeprefix("round_"), len(labels["valid"]), *counts]
        table.add_row(*map(str, row), f"<{outputs['scored'][key].pk}>")
    console.print(table)

    best = Table(title="The unique ones, lowest E~ first", title_justify="left")
    for name in (
        "E~ / atom",
        "known as",
        "seen",
        "space group",
        "atoms",
        "A^3 / atom",
        "structure",
    ):
        best.add_column(name, justify="left" if name == "known as" else "right")
    drawn, titles = [], []
    for key in rounds[-1:]:
        scored = outputs["scored"][key]
        frames = scored.get_frames()
        labels = frames.structure
        unique = np.flatnonzero(labels["unique"])
        unique = unique[np.argsort(labels["energy_per_atom"][unique], kind="stable")]
        for index in unique[:SHOWN]:
            structure = extract_structure(scored, orm.Int(int(index)))
            name = str(labels["match"][index]) or "-"
            best.add_row(
                f"{labels['energy_per_atom'][index]:.4f}",
                name,
                str(int((labels["duplicate_of"] == index).sum())),
                str(labels["spacegroup"][index]),
                str(frames.counts[index]),
                f"{labels['volume_per_atom'][index]:.2f}",
                f"<{structure.pk}>",
            )
            drawn.append(frames[int(index)])
            titles.append(
                f"{name if name != '-' else 'unnamed'}, "
                f"space group {labels['spacegroup'][index]}, <{structure.pk}>"
            )
    console.print(best)
    names = {
        str(name)
        for key in rounds
        for name in outputs["scored"][key].get_frames().structure["match"]
        if name
    }
    console.print(f"known carbon recognised in all rounds: {', '.join(sorted(names)) or 'none'}")
    if drawn:
        draw_candidates(
            concatenate([frame.without_labels() for frame in drawn[:5]]),
            range(min(5, len(drawn))),
            titles[:5],
            node.inputs.dataset.get_frames(),
            "diamond",
            PICTURE,
        )
        console.print(f"\n[bold]picture[/]      {PICTURE}")
    console.print(f"[bold]time[/]         {seconds / 60:.1f} minutes")
    console.print("\nLook further:")
    console.print(f"  export AIIDA_PATH={FOLDER}", soft_wrap=True)
    for line, why in (
        (program("aiida-rm", "report", node.pk), "all of it as one page"),
        (program("verdi", "process status", node.pk), "what called what"),
        (program("verdi", "data rm.frames show", outputs["scored"][rounds[-1]].pk), "structures"),
        (program("verdi", "data rm.potential show", outputs["potential"].pk), "E~"),
        (program("verdi", "node graph generate", node.pk), "needs Graphviz, its program dot"),
    ):
        console.print(f"  {line}  [dim]# {why}[/]", soft_wrap=True, highlight=False)


def program(name: str, command: str, pk: int) -> str:
    """A command line that works from any shell once AIIDA_PATH is set."""
    return f"{Path(sys.executable).with_name(name)} {command} {pk}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        console.print("\nstopped; what was stored so far stays in", str(FOLDER))
        sys.exit(130)
