"""Batched relaxation and sampling on a potential: the schedule's stages, structure by structure."""

from aiida_rm.engine.relaxation.driver import (
    CONVERGED,
    EXPLODED,
    OUT_OF_STEPS,
    RelaxStatus,
    relax,
)

__all__ = ["CONVERGED", "EXPLODED", "OUT_OF_STEPS", "RelaxStatus", "relax"]
