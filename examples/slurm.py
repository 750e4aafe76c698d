"""A loop on a cluster with SLURM: computer and code from YAML, every job in its queue.

    python examples/slurm.py mine.cif --files my-cluster --queue gpu --gpus 1
    python examples/slurm.py mine.cif --profile me --code aiida-rm-engine@cluster --submit

``--files`` is a copy of ``examples/clusters/slurm`` in which the lines marked ``# yours`` were
changed: what it names is set up where it is missing. Without ``--profile`` everything is stored
under ``.demo`` beside this folder, and the loop runs in this terminal; with it, it is stored in
that profile of yours, and ``--submit`` leaves the loop to its daemon.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from isolated import PROFILE, open_profile
from rich.console import Console
from study import knobs

console = Console(soft_wrap=True)


def main() -> int:
    """Set up what is missing, then run or submit; the exit status of the loop."""
    given = arguments()
    if given.profile is None:
        open_profile(console)  # before AiiDA is imported, which asks then where its profiles are
    from aiida.common.exceptions import AiidaException
    from aiida.engine import run_get_node, submit
    from plumpy import KilledError

    try:
        builder = prepare(given)
        node = submit(builder) if given.submit else None
    except (AiidaException, ValueError, OSError) as error:
        sys.exit(f"slurm.py: {error}")
    if node is not None:
        console.print(
            f"submitted rm.loop <{node.pk}>; follow it: aiida-rm status --watch {node.pk}"
        )
        return 0
    console.print(
        "what the scheduler refuses is tried five times, for minutes; `aiida-rm doctor CODE` says "
        "at once why",
        soft_wrap=True,
    )
    try:
        _, node = run_get_node(builder)
    except KilledError:
        console.print("stopped; what was stored so far stays in the profile")
        return 130
    return tell(node)


def prepare(given: argparse.Namespace) -> Any:
    """Profile (where it is the user's), computer, code and inputs; the builder of the loop.

    Raises:
        AiidaException, ValueError, OSError: one of them is not as it should be.
    """
    from aiida import load_profile, orm

    from aiida_rm.cli.running import need_daemon

    if given.profile is not None:
        load_profile(given.profile)
    if given.submit:
        need_daemon("leave out --submit")
    return make_builder(orm.load_code(given.code or set_up(given)), given)


def arguments() -> argparse.Namespace:
    """What was asked for, and whether it goes together."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path, help="stable structures, in a file that rm reads")
    code = parser.add_mutually_exclusive_group(required=True)
    code.add_argument(
        "--files", type=Path, help="folder with computer.yml, transport.yml and the code's"
    )
    code.add_argument("--code", metavar="LABEL@COMPUTER", help="the engine, where it is set up")
    parser.add_argument("--code-file", default="code_venv.yml", help="which code of --files")
    parser.add_argument("--profile", help="yours; without it, one under .demo")
    parser.add_argument("--submit", action="store_true", help="leave it to the profile's daemon")
    parser.add_argument("--queue", help="partition of the jobs")
    parser.add_argument("--account", help="who pays for the jobs")
    parser.add_argument("--walltime", type=int, default=3600, help="of each job, in s")
    parser.add_argument("--gpus", type=int, help="of each machine; without it, processors alone")
    parser.add_argument("--nodes", type=int, help="machines of a training")
    parser.add_argument("--protocol", default="balanced", help="fast, balanced or stringent")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--starts", type=int, default=100, help="random starts in each round")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers")
    parser.add_argument(
        "--tiny", action="store_true", help="a training of seconds, to see that everything works"
    )
    given = parser.parse_args()
    if given.submit and given.profile is None:
        parser.error("--submit needs --profile: the one in .demo has no daemon")
    if not given.dataset.exists():
        parser.error(f"there is no dataset {given.dataset}")
    return given


def set_up(given: argparse.Namespace) -> str:
    """Computer and code by ``verdi``, as docs/setup.md says; the label of the code."""
    from aiida import orm

    files = [given.files / name for name in ("computer.yml", "transport.yml", given.code_file)]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise ValueError(f"there is no {' and no '.join(missing)}")
    computer = read(files[0], "label", "transport")
    code = read(files[2], "label", "computer")
    label = computer["label"]
    if code["computer"] != label:
        raise ValueError(f"{files[2]} is for computer '{code['computer']}', {files[0]} '{label}'")
    where = ["-n", "--config"]
    if not orm.Computer.collection.find({"label": label}):
        verdi(given, "computer", "setup", *where, str(files[0]))
    if not orm.load_computer(label).is_configured:
        verdi(given, "computer", "configure", computer["transport"], label, *where, str(files[1]))
    found = orm.QueryBuilder().append(orm.Computer, filters={"label": label}, tag="computer")
    found.append(orm.AbstractCode, with_computer="computer", filters={"label": code["label"]})
    if not found.count():
        kind = "containerized" if "image_name" in code else "installed"
        verdi(given, "code", "create", f"core.code.{kind}", *where, str(files[2]))
    return f"{code['label']}@{label}"


def read(file: Path, *needed: str) -> dict[str, Any]:
    """A YAML file for verdi.

    Raises:
        ValueError: it is no table, or one of the lines needed is missing.
    """
    try:
        table = yaml.safe_load(file.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    missing = [name for name in needed if not isinstance(table, dict) or not table.get(name)]
    if missing:
        raise ValueError(f"{file} does not say '{missing[0]}'")
    return dict(table)


def verdi(given: argparse.Namespace, *words: str) -> None:
    """Run verdi, and show how it was called."""
    console.print(f"$ verdi {shlex.join(words)}", markup=False)
    program = Path(sys.executable).with_name("verdi")
    told = subprocess.run(
        [program, "-p", given.profile or PROFILE, *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if told.returncode:
        raise ValueError(f"verdi refused this: {(told.stdout + told.stderr).strip()}")


def make_builder(code: Any, given: argparse.Namespace) -> Any:
    """The loop, with what the scheduler is asked for."""
    from aiida_rm.data.frames import FramesData
    from aiida_rm.workflows.loop import LoopWorkChain

    options = {"max_wallclock_seconds": given.walltime}
    names = {"queue_name": given.queue, "account": given.account}
    options |= {name: value for name, value in names.items() if value is not None}
    return LoopWorkChain.get_builder_from_protocol(
        code,
        FramesData.from_file(given.dataset, label=given.dataset.name),
        protocol=given.protocol,
        overrides={
            "rounds": given.rounds,
            "perturb": {"settings": knobs(given, "perturb")},
            "train": {"train": {"settings": knobs(given, "train")}},
            "generate": {
                "generate": {"settings": {"seed": given.seed, "n_structures": given.starts}}
            },
        },
        options=options,
        gpus=given.gpus,
        nodes=given.nodes,
    )


def tell(node: Any) -> int:
    """Print what came out; 0 where something did."""
    from aiida_rm import queries

    why = node.exit_message or ""
    console.print(f"rm.loop <{node.pk}> ended with {node.exit_status} {why}", markup=False)
    if "scored" not in node.outputs:
        console.print(f"look into it: verdi process report {node.pk}")
        return 1
    console.print(queries.yield_per_round(node).to_string(index=False))
    console.print(f"look further: aiida-rm report {node.pk}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        console.print("\nstopped; what was stored so far stays in the profile")
        sys.exit(130)
