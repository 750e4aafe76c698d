"""The state of a process in one word."""

from __future__ import annotations

from aiida.orm import ProcessNode


def state_of(node: ProcessNode) -> str:
    """Such as ``running``; what was stored a moment ago has no state yet, and is ``created``."""
    return str(node.process_state.value) if node.process_state else "created"
