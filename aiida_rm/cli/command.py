"""Commands whose errors are one line with a remedy; ``--debug`` shows the trace."""

from __future__ import annotations

import sys
from typing import Any

import click
from aiida.cmdline.groups.verdi import VerdiCommand, VerdiCommandGroup
from aiida.cmdline.utils import echo

_DEBUG = "aiida_rm.debug"


class RefusalError(ValueError):
    """Something a user can mend; the message names the culprit and the remedy."""


class Command(VerdiCommand):
    """A command of AiiDA's kind that never ends in a stack trace, unless asked to."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        option = click.Option(
            ["--debug"],
            is_flag=True,
            expose_value=False,
            callback=lambda ctx, _, value: ctx.meta.__setitem__(_DEBUG, value),
            help="Show the trace of an error.",
        )
        self.params.append(option)

    def invoke(self, ctx: click.Context) -> Any:
        """Run; an error is told in one line, and the exit status is 1."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            sys.stderr.close()  # whoever reads our output has seen enough
            sys.exit(1)
        except Exception as error:
            if ctx.meta.get(_DEBUG):
                raise
            echo.echo_critical(one_line(error))


class Group(VerdiCommandGroup):
    """A group of such commands."""

    command_class = Command


def one_line(error: Exception) -> str:
    """What an error says to a user."""
    from aiida.common.exceptions import AiidaException

    from aiida_rm.engine.errors import EngineError

    text = " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split())
    if isinstance(error, EngineError | AiidaException | OSError | ValueError | IndexError):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}; --debug shows where"
