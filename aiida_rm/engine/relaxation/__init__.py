"""Batched relaxation and sampling on a potential: the schedule's stages, structure by structure."""

from aiida_rm.engine.relaxation.driver import RelaxStatus, relax
from aiida_rm.engine.relaxation.penalty import load_penalty
from aiida_rm.engine.relaxation.results import CONVERGED, EXPLODED, NO_MEMORY, OUT_OF_STEPS
from aiida_rm.engine.relaxation.uncertainty import latent_distances, with_uncertainty

__all__ = [
    "CONVERGED",
    "EXPLODED",
    "NO_MEMORY",
    "OUT_OF_STEPS",
    "RelaxStatus",
    "latent_distances",
    "load_penalty",
    "relax",
    "with_uncertainty",
]
