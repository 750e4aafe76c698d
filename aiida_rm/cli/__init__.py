"""The command line: ``aiida-rm``. What a command needs is imported when it runs."""

from __future__ import annotations

import click
from aiida.cmdline.params import options, types

from aiida_rm import __version__
from aiida_rm.cli.clean import clean
from aiida_rm.cli.command import Group
from aiida_rm.cli.compare import compare
from aiida_rm.cli.doctor import doctor
from aiida_rm.cli.knobs import knobs
from aiida_rm.cli.launch import launch
from aiida_rm.cli.report import plot, report
from aiida_rm.cli.setup import setup
from aiida_rm.cli.status import status


@click.group(cls=Group, context_settings={"help_option_names": ["--help", "-h"]})
@options.PROFILE(type=types.ProfileParamType(load_profile=True), expose_value=False)
@click.version_option(__version__, message="aiida-rm %(version)s")
def aiida_rm() -> None:
    """Response Matching for AiiDA."""


for _command in (setup, doctor, launch, status, compare, report, plot, clean, knobs):
    aiida_rm.add_command(_command)
