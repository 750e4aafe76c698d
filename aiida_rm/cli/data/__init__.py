"""The groups of ``verdi data``: ``rm.frames``, ``rm.potential`` and ``rm.training_state``."""
