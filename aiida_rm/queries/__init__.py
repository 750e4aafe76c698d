"""Answers that people want from a study, one short function each (docs/howto/querying.md).

Functions that speak of nodes return nodes; those that speak of single structures return a table of
pandas, whose columns ``pk`` and ``index`` say where each structure is.
"""

from aiida_rm.queries.finding import (
    best,
    generated_from,
    potentials_trained_on,
    scored_of,
    structures_from,
    with_composition,
    yield_per_round,
)
from aiida_rm.queries.lineage import Step, lineage, trace
from aiida_rm.queries.tables import holds_formula, structures, table_of

__all__ = [
    "Step",
    "best",
    "generated_from",
    "holds_formula",
    "lineage",
    "potentials_trained_on",
    "scored_of",
    "structures",
    "structures_from",
    "table_of",
    "trace",
    "with_composition",
    "yield_per_round",
]
