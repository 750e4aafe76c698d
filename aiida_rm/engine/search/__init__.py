"""Sensible starts: composition, volume, cell, distances, symmetry, given structures.

Structure i of a seed depends on the seed, i, the settings, what the potential knows of its
training set and the given structures alone, so jobs can share a seed by ranges of i.
"""

from aiida_rm.engine.search.check import check_committee, check_search
from aiida_rm.engine.search.knowledge import Knowledge
from aiida_rm.engine.search.starts import make_starts

__all__ = ["Knowledge", "check_committee", "check_search", "make_starts"]
