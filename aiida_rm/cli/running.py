"""Run one job in this process, but not for ever: AiiDA pauses one that it cannot submit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

from aiida import orm
from aiida.schedulers import JobState
from plumpy import ensure_portal

from aiida_rm.cli.command import RefusalError

#: Seconds for a job to be cancelled.
_KILLING = 5.0


class GaveUpError(Exception):
    """The job did not come to an end; the message says why."""

    def __init__(self, why: str, node: orm.CalcJobNode) -> None:
        super().__init__(why)
        self.node = node


def without_broker() -> None:
    """From here on this process runs its jobs by itself.

    With the broker of `verdi presto` it would look for one that runs only with the daemon.
    """
    from aiida.manage import get_manager

    get_manager().get_runner(communicator=None)


def need_daemon(otherwise: str) -> None:
    """Ask for it before anything is stored.

    Args:
        otherwise: what else the user may do.

    Raises:
        RefusalError: there is nobody to submit to.
    """
    from aiida.engine.daemon.client import get_daemon_client
    from aiida.manage import get_manager

    if get_manager().get_broker() is None:
        raise RefusalError(f"this profile has no broker to submit to; {otherwise} to run it here")
    if not get_daemon_client().is_daemon_running:
        raise RefusalError(f"AiiDA's daemon does not run: `verdi daemon start`, or {otherwise}")


def run_job(process_class: type, inputs: Mapping[str, Any], patience: float) -> orm.CalcJobNode:
    """Run a job here, without its lines on the screen.

    Args:
        process_class: of the job.
        inputs: its inputs.
        patience: seconds until it is given up and cancelled.

    Raises:
        GaveUpError: it was paused, killed, or took too long.
    """
    from aiida.manage import get_manager
    from aiida.manage.caching import disable_caching

    runner = get_manager().get_runner()
    with _quiet() as errors, disable_caching(), _few_attempts():
        process = runner.instantiate_process(process_class, **inputs)
        why = runner.loop.run_until_complete(_watch(process, patience, errors))
    node: orm.CalcJobNode = process.node
    if why or not node.is_finished:
        raise GaveUpError(why or "it was killed", node)
    return node


async def _watch(process: Any, patience: float, errors: _LastError) -> str:
    """Let a job run to its end, or kill it; why it was killed, or nothing."""
    await ensure_portal()  # or killing it, within this loop, would not reach its computer
    task = asyncio.ensure_future(process.step_until_terminated())
    ends, why = time.monotonic() + patience, ""
    while not task.done() and not why:
        await asyncio.wait({task}, timeout=0.5)
        if process.paused:
            why = errors.line or "AiiDA paused it"
        elif time.monotonic() > ends:
            why = f"no result after {patience:.0f} s"
            if process.node.get_scheduler_state() == JobState.QUEUED:
                why = f"still queued after {patience:.0f} s; raise --patience, or name a --queue"
    if task.done():
        await task
        return ""
    # Without a number from the scheduler there is nothing to cancel there. AiiDA raises when what
    # it interrupts has come to its end a moment before, and kills the process after this step.
    with contextlib.suppress(asyncio.InvalidStateError):
        process.kill(why, force_kill=process.node.get_job_id() is None)
    await asyncio.wait({task}, timeout=_KILLING)
    task.cancel()
    return why


def without_harmless() -> None:
    """Nothing on the screen of AiiDA's last look after the monitors of a job that has ended."""
    for handler in logging.getLogger("aiida").handlers:
        handler.addFilter(lambda record: "skipping task_monitor_job" not in record.getMessage())


@contextlib.contextmanager
def _few_attempts() -> Iterator[None]:
    """Whoever asks a doctor does not wait for the fifth try; nothing is written to the disk."""
    from aiida.manage import get_manager

    profile = get_manager().get_profile()
    assert profile is not None  # or no code had been found
    before = dict(profile.options)
    profile.set_option("transport.task_maximum_attempts", 2)
    profile.set_option("transport.task_retry_initial_interval", 1)
    try:
        yield
    finally:
        profile.options = before


class _LastError(logging.Handler):
    """Remembers the last error that was logged, in one line."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.line = ""

    def emit(self, record: logging.LogRecord) -> None:
        raised = record.exc_info[1] if record.exc_info else None
        lines = str(raised or record.getMessage()).split()
        self.line = " ".join(lines) or self.line


@contextlib.contextmanager
def _quiet() -> Iterator[_LastError]:
    """AiiDA's lines go into its database, not onto the screen: the table says it."""
    from aiida.manage import get_manager
    from aiida.orm.utils.log import DBLogHandler

    get_manager().get_runner()  # sets the handlers up
    handlers = [
        handler
        for name in ("aiida", "plumpy", "asyncio", "")
        for handler in logging.getLogger(name or None).handlers
        if not isinstance(handler, DBLogHandler)
    ]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.CRITICAL + 1)
    errors = _LastError()
    logging.getLogger("aiida").addHandler(errors)
    try:
        yield errors
    finally:
        logging.getLogger("aiida").removeHandler(errors)
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)
