"""The code of the engine."""

from tests.workflows.conftest import engine_code

__all__ = ["engine_code"]
