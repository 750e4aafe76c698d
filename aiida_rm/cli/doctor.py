"""``aiida-rm doctor CODE``: whether jobs will run there, and what to mend."""

from __future__ import annotations

import sys
from typing import Any

import click
from aiida.cmdline.utils.decorators import with_dbenv

from aiida_rm.cli.command import Command
from aiida_rm.cli.output import JSON, print_json


@click.command("doctor", cls=Command)
@click.argument("code")
@click.option("--gpus", type=click.IntRange(1, 64), help="Ask for so many GPUs, and look for them.")
@click.option("--queue", help="Queue or partition of the job.")
@click.option("--account", help="Account that pays for the job.")
@click.option(
    "--walltime",
    type=click.IntRange(60),
    default=600,
    show_default=True,
    help="Of the job, in seconds.",
)
@click.option(
    "--patience",
    type=click.IntRange(1),
    default=3600,
    show_default=True,
    help="Give up after so many seconds, in the queue or running; the job is cancelled.",
)
@JSON
@with_dbenv()
def doctor(code: str, as_json: bool, **asked: Any) -> None:
    """Run a tiny job with CODE, and say what is fine and what to mend.

    CODE is the label of the engine's code, such as aiida-rm-engine@cluster, its PK or its UUID.
    The exit status is 0 when nothing has to be mended, else 1.
    """
    from aiida_rm.cli.examination import examine

    report = examine(code, **asked)
    if as_json:
        print_json(report.to_plain())
    else:
        from rich.console import Console

        report.show(Console(highlight=False, soft_wrap=True))
    sys.exit(0 if report.well else 1)
