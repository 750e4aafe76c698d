"""What the work chains share."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.common.exceptions import NotExistent
from aiida.common.links import LinkType
from aiida.engine import ExitCode, Process, ProcessSpec, ToContext, WorkChain

from aiida_rm.calculations.base import EngineCalculation

#: Nobody knows why: nothing came back, a machine failed.
UNLUCKY_ANYWHERE = (100, 140)
#: The same of our own jobs: the engine died or was told to, its outputs are missing or truncated.
UNLUCKY = (*UNLUCKY_ANYWHERE, 103, 303, 304, 305, 403)


class CleaningMixin:
    """Adds the input `clean_workdir`: remove the folders of all jobs from their computers."""

    inputs: Any
    node: Any

    @classmethod
    def define(cls, spec: ProcessSpec) -> None:
        """Add the input."""
        super().define(spec)  # type: ignore[misc]
        spec.input(
            "clean_workdir",
            valid_type=orm.Bool,
            default=lambda: orm.Bool(False),
            serializer=orm.to_aiida_type,
            help="Remove the work folders of all jobs at the end.",
        )

    def on_terminated(self) -> None:
        """Clean, if asked to; a folder that is gone already is no failure."""
        super().on_terminated()  # type: ignore[misc]
        if not self.inputs.clean_workdir.value:
            return
        for node in self.node.called_descendants:
            # From the cache a job gets the folder of another one, which is not ours to remove.
            if isinstance(node, orm.CalcJobNode) and not node.base.caching.is_created_from_cache:
                try:
                    node.outputs.remote_folder._clean()
                except (OSError, KeyError, AttributeError, NotExistent):
                    continue


def exit_with(process: Process, label: str, **values: Any) -> ExitCode:
    """An exit code of a process, its message filled in."""
    code: ExitCode = getattr(process.exit_codes, label)
    return code.format(**values) if values else code


def call(function: Any, *args: Any, **kwargs: Any) -> tuple[Any, orm.CalcFunctionNode]:
    """Run a calcfunction: what it made, and the node that says how it ended."""
    result, node = function.run_get_node(*args, **kwargs)
    return result, node


def verdict(node: orm.ProcessNode) -> str:
    """How a process ended, in one line."""
    if node.is_excepted:
        lines = (node.exception or "").strip().splitlines()
        return f"an error of AiiDA's ({lines[-1] if lines else 'it says no more'})"
    if node.is_killed:
        return "no exit status: it was killed"
    return f"[{node.exit_status}] {node.exit_message or node.process_state}"


def unlucky(node: orm.ProcessNode) -> bool:
    """Whether a job ended for a reason that the same job may not meet again."""
    if not isinstance(node, orm.CalcJobNode):
        return False
    ours = issubclass(node.process_class, EngineCalculation)
    return node.exit_status in (UNLUCKY if ours else UNLUCKY_ANYWHERE)


def once_more(chain: WorkChain, label: str) -> ToContext | None:
    """Run a job of the context again, with the same inputs, if it was unlucky.

    A step of an outline between the one that submits the job and the one that looks at it.
    """
    node = chain.ctx[label]
    if not unlucky(node):
        return None
    builder = node.get_builder_restart()
    link = node.base.links.get_incoming(link_type=LinkType.CALL_CALC).one()
    builder.metadata.call_link_label = f"{link.link_label}_again"
    again = chain.submit(builder)
    chain.report(f"{label} <{node.pk}> ended with {verdict(node)}; once more as <{again.pk}>")
    return ToContext(**{label: again})
