"""The jobs of the tests of parsers."""

from tests.parsers.conftest import make_job

__all__ = ["make_job"]
