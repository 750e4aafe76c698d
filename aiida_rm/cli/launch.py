"""``aiida-rm launch``: train, generate, validate and loop from protocols."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from aiida.cmdline.utils import decorators, echo

from aiida_rm.cli.command import Group, RefusalError
from aiida_rm.cli.groups import GROUP, join
from aiida_rm.cli.output import JSON, print_json, print_table

_OPTIONS = (
    JSON,
    click.option("--full", is_flag=True, help="With --dry-run: every knob, also the defaults."),
    click.option(
        "-n",
        "--dry-run",
        is_flag=True,
        help="Print the plan and its cost; store and start nothing.",
    ),
    click.option(
        "--run", "here", is_flag=True, help="Run in this terminal, without the daemon of AiiDA."
    ),
    GROUP,
    click.option("-L", "--label", metavar="TEXT", help="Of the process."),
    click.option(
        "-s",
        "--settings",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="YAML with code, computer, protocol, gpus, nodes, the inputs by name, and the tables "
        "overrides, options, referees and committee.",
    ),
    click.option("--walltime", type=click.IntRange(60), metavar="SECONDS", help="Of each job."),
    click.option("--queue", metavar="NAME", help="Queue or partition of the jobs."),
    click.option("--computer", metavar="LABEL", help="For a code that belongs to no computer."),
    click.option(
        "--protocol", metavar="NAME", help="fast, balanced or stringent.  [default: balanced]"
    ),
    click.option("--code", metavar="LABEL@COMPUTER", help="The engine: label, PK or UUID."),
)
_HARDWARE = (
    click.option("--nodes", type=click.IntRange(1), metavar="N", help="Machines of a training."),
    click.option("--gpus", type=click.IntRange(1), metavar="N", help="GPUs of each machine."),
)
_POTENTIAL = "PK, UUID or label of a potential, or a file of one"
_SET = "PK, UUID or label of a set of structures, or a file of them"


def _with(*options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in options:
            command = option(command)
        return command

    return add


def _changes(examples: str) -> Any:
    return click.option(
        "--set",
        "changes",
        multiple=True,
        metavar="PATH=VALUE",
        help=f"An override, such as {examples}; several times. `aiida-rm knobs` lists settings.",
    )


def _input(name: str, text: str) -> Any:
    return click.option(f"--{name}", metavar="NODE", help=text)


@click.group("launch", cls=Group)
def launch() -> None:
    """Start a run: from a protocol, a settings file, and options (which win).

    With --dry-run it prints the full plan and an estimate of the cost, and starts nothing.
    """


@launch.command("loop")
@_with(*_OPTIONS, *_HARDWARE)
@_changes("rounds=3 or train.train.settings.epochs=6")
@_input("known", f"To recognise by their label `name`: {_SET}.")
@_input("starts", f"Make the starts of these: {_SET}.")
@_input("dataset", f"Stable structures to begin with: {_SET}.")
@decorators.with_dbenv()
def launch_loop(**asked: Any) -> None:
    """Perturb, train, generate, validate; the accepted join the dataset; again (rm.loop)."""
    _launch("loop", asked)


@launch.command("train")
@_with(*_OPTIONS, *_HARDWARE)
@_changes("train.settings.epochs=6")
@_input("potential", f"Begin with its weights: {_POTENTIAL}.")
@_input(
    "frames",
    f"Perturbed structures, the output of rm.perturb; or stable ones, with "
    f"--set train.settings.draw=fresh: {_SET}.",
)
@decorators.with_dbenv()
def launch_train(**asked: Any) -> None:
    """Train a potential (rm.train)."""
    _launch("train", asked)


@launch.command("generate")
@_with(*_OPTIONS, *_HARDWARE)
@_changes("generate.settings.n_structures=200")
@click.option(
    "--mode", type=click.Choice(["random", "composition", "molecule", "seeded"]), help="Of starts."
)
@click.option(
    "--committee",
    multiple=True,
    metavar="NODE",
    help=f"Judges hops, too, and tells where it disagrees: {_POTENTIAL}; several times.",
)
@_input("starts", f"Make the starts of these: {_SET}.")
@_input("potential", f"To relax on: {_POTENTIAL}.")
@decorators.with_dbenv()
def launch_generate(**asked: Any) -> None:
    """Relax random starts, or given ones, on a potential (rm.generate)."""
    _launch("generate", asked)


@launch.command("validate")
@_with(*_OPTIONS)
@_changes("rules.limit=20 or score.settings.chemistry=off")
@_input("null", f"Random structures to compare match rates with: {_SET}.")
@_input("known", f"To recognise by their label `name`: {_SET}.")
@_input("references", f"What is not novel: {_SET}.")
@_input("frames", f"To judge: {_SET}.")
@decorators.with_dbenv()
def launch_validate(**asked: Any) -> None:
    """Judge structures, and accept those that meet the rules (rm.validate)."""
    _launch("validate", asked)


def _launch(kind: str, asked: dict[str, Any]) -> None:
    from aiida.engine import run_get_node, submit

    from aiida_rm.cli.data.selecting import TEXTS, parse_rules
    from aiida_rm.cli.plan import make_builder, put, read_settings
    from aiida_rm.cli.running import need_daemon, without_harmless

    flags = ("settings", "changes", "dry_run", "here", "full", "as_json", "label", "group")
    how = {name: asked.pop(name) for name in flags}
    table = read_settings(how["settings"], kind)
    table |= {name: value for name, value in asked.items() if value not in (None, ())}
    overrides = table.setdefault("overrides", {})
    for path, value in parse_rules(how["changes"], TEXTS, "override").items():
        put(overrides, path, value)
    for option, name in (("walltime", "max_wallclock_seconds"), ("queue", "queue_name")):
        if table.pop(option, None) is not None:
            put(table, f"options.{name}", asked[option])
    builder = make_builder(kind, table)
    _check(kind, builder)
    if not how["dry_run"] and not how["here"]:
        need_daemon("add --run")
    if how["dry_run"]:
        _show_plan(kind, builder, full=how["full"], as_json=how["as_json"])
        return
    if how["label"]:
        builder.metadata.label = how["label"]
    if how["here"]:
        without_harmless()
    node = run_get_node(builder)[1] if how["here"] else submit(builder)
    join(how["group"], node)
    if how["as_json"]:
        print_json({"pk": node.pk, "uuid": node.uuid, "exit_status": node.exit_status})
    elif how["here"]:
        say = echo.echo_success if node.is_finished_ok else echo.echo_error
        say(f"rm.{kind} <{node.pk}> ended with [{node.exit_status}] {node.exit_message or ''}")
    else:
        echo.echo_success(f"rm.{kind} is <{node.pk}>; watch it with `aiida-rm status --watch`")
    if how["here"] and not node.is_finished_ok:
        raise click.exceptions.Exit(1)


def _check(kind: str, builder: Any) -> None:
    """Refuse what the process would, and tell what is odd."""
    from aiida_rm.cli.plan import problem, remark

    if wrong := problem(builder):
        raise RefusalError(f"rm.{kind} refuses these inputs: {wrong}")
    if odd := remark(kind, builder):
        click.echo(f"Note: {odd}", err=True)


def _show_plan(kind: str, builder: Any, *, full: bool, as_json: bool) -> None:
    import yaml

    from aiida_rm.cli.cost import estimate, most_hours
    from aiida_rm.cli.output import plain
    from aiida_rm.cli.plan import brief, plan_of
    from aiida_rm.engine.training.progress import duration

    inputs = builder._inputs(prune=True)
    plan = plan_of(builder)
    costs = estimate(kind, inputs)
    known = [cost.seconds for cost in costs if cost.seconds is not None]
    hours = most_hours(inputs)
    if as_json:
        stages = [vars(cost) for cost in costs]
        total = {"seconds": sum(known), "core_hours_of_a_training_at_most": hours}
        print_json({"process": f"rm.{kind}", "inputs": plan, "stages": stages, "total": total})
        return
    click.echo(f"rm.{kind} would run with these inputs{'' if full else ' (and defaults)'}:\n")
    shown = plain(plan if full else brief(plan))
    click.echo(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, default_flow_style=None))
    rows = [
        {**vars(cost), "time": "-" if cost.seconds is None else duration(cost.seconds)}
        for cost in costs
    ]
    headers = {"stage": "Stage", "work": "Work", "time": "About", "source": "By the speed of"}
    print_table(rows, headers, longest=70)
    click.echo(
        f"\nAll together about {duration(sum(known))} of computing, one job after the other; "
        "rough, within a factor of three."
    )
    if hours is not None:
        click.echo(f"A training job may take {hours:.3g} core hours at most (its walltime).")
    click.echo("Nothing was stored or started (--dry-run).")
