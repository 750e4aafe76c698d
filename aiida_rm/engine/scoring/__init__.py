"""Generated structures to verdicts: geometry, symmetry, uniqueness, novelty, known structures.

No torch here: the AiiDA side may use these modules too.
"""
