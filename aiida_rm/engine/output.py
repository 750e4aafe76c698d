"""What the program prints. Its output stream may be full or closed; the work goes on without it."""

from __future__ import annotations

import contextlib
import errno
import os
import sys


def say(line: str) -> None:
    """Print a line, or not, where nobody takes it."""
    try:
        print(line, flush=True)
    except OSError as error:
        # On a full disk there may be room again; whoever closed a pipe does not come back.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            _forget_output()


def settle_output() -> None:
    """At the end: what could not be printed must not change the exit status."""
    try:
        sys.stdout.flush()
    except OSError:
        _forget_output()


def _forget_output() -> None:
    """From now on, what is printed goes nowhere."""
    # Some streams (of a notebook, of pytest) are no files.
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, sys.stdout.fileno())
        finally:
            os.close(nowhere)
