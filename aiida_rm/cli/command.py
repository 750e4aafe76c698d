"""Commands whose errors are one line with a remedy; ``--debug`` shows the trace."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable
from typing import Any

import click
from aiida.cmdline.groups.verdi import VerdiCommand, VerdiCommandGroup
from aiida.cmdline.utils import echo

_DEBUG = "aiida_rm.debug"


class RefusalError(ValueError):
    """Something a user can mend; the message names the culprit and the remedy."""


#: What AiiDA's own words for a node that is not there look like, and where people find another.
_NOT_FOUND = re.compile(r"no (\w+) found with (ID|UUID|LABEL)<(.*)>: No result")
_WHERE = {
    "WorkflowNode": ("work chain", "verdi process list -a"),
    "ProcessNode": ("process", "verdi process list -a"),
    "FramesData": ("set of structures", "verdi data rm.frames list"),
    "PotentialData": ("potential", "verdi data rm.potential list"),
    "TrainingStateData": ("training state", "verdi data rm.training_state list"),
    "Computer": ("computer", "verdi computer list -a"),
    "Group": ("group", "verdi group list"),
}


class UsageError(click.ClickException):
    """A command that was called wrongly, in one line; the exit status is click's."""

    exit_code = 2


class Command(VerdiCommand):
    """A command of AiiDA's kind that never ends in a stack trace, unless asked to.

    Args:
        needs_profile: whether it needs a profile of AiiDA.
    """

    def __init__(self, *args: Any, needs_profile: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.needs_profile = needs_profile
        option = click.Option(
            ["--debug"],
            is_flag=True,
            expose_value=False,
            callback=lambda ctx, _, value: ctx.meta.__setitem__(_DEBUG, value),
            help="Show the trace of an error.",
        )
        self.params.append(option)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the arguments; what is wrong is told in one line."""
        return _in_one_line(lambda: super(Command, self).make_context(*args, **kwargs))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Look for a profile first, unless help or a completion is asked for."""
        asks = {"--help", "-h"} & set(args)
        if self.needs_profile and not asks and not ctx.resilient_parsing:
            _need_profile()
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run; an error is told in one line, and the exit status is 1."""
        from aiida_rm.cli.output import json_alone

        try:
            with json_alone() if ctx.params.get("as_json") else contextlib.nullcontext():
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

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the options of the group; what is wrong is told in one line."""
        return _in_one_line(lambda: super(Group, self).make_context(*args, **kwargs))


def _in_one_line(read: Callable[[], click.Context]) -> click.Context:
    try:
        return read()
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        told = error.format_message().rstrip(".")
        found = _NOT_FOUND.search(told)
        if found:
            raise UsageError(_not_found(*found.groups())) from None
        more = f"; `{error.ctx.command_path} --help` says more" if error.ctx else ""
        raise UsageError(" ".join(told.split()) + more) from None


def _not_found(kind: str, key: str, value: str) -> str:
    """What there is instead of the node, and where others are."""
    from aiida import orm
    from aiida.common.exceptions import NotExistent

    name, where = _WHERE.get(kind, ("node", "verdi process list -a"))
    try:
        node = orm.load_node(pk=int(value)) if key == "ID" else None
    except NotExistent:
        node = None
    if node is None or kind in ("Node", "Computer", "Group"):
        shown = f"<{value}>" if key == "ID" else f"'{value}'"
        return f"there is no {name} {shown}; `{where}` has them"
    what = getattr(node, "process_label", None) or type(node).__name__
    owner = getattr(node, "caller", None)
    belongs = f" that <{owner.pk}> called" if owner is not None else ""
    return f"<{node.pk}> is no {name}, but {what}{belongs}; `{where}` has them"


def _need_profile() -> None:
    from aiida.manage import get_config, get_manager

    config = get_config(create=True)
    if get_manager().get_profile() or config.default_profile_name in config.profile_names:
        return
    others = f"; or name one of {', '.join(config.profile_names)} by -p" * bool(
        config.profile_names
    )
    raise click.ClickException(f"there is no AiiDA profile; `aiida-rm setup` makes one{others}")


def one_line(error: Exception) -> str:
    """What an error says to a user."""
    from aiida.common.exceptions import AiidaException

    from aiida_rm.engine.errors import EngineError

    text = " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split())
    ours = isinstance(error, TypeError) and text.startswith("`")  # names an input and its kind
    if ours or isinstance(error, EngineError | AiidaException | OSError | ValueError | IndexError):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}; --debug shows where"
