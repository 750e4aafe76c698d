"""The command line: ``aiida-rm``. What a command needs is imported when it runs."""

from __future__ import annotations

import click
from aiida.cmdline.groups import VerdiCommandGroup
from aiida.cmdline.params import options, types

from aiida_rm import __version__
from aiida_rm.cli.doctor import doctor


@click.group(cls=VerdiCommandGroup, context_settings={"help_option_names": ["--help", "-h"]})
@options.PROFILE(type=types.ProfileParamType(load_profile=True), expose_value=False)
@click.version_option(__version__, message="aiida-rm %(version)s")
def aiida_rm() -> None:
    """Response Matching for AiiDA."""


aiida_rm.add_command(doctor)
