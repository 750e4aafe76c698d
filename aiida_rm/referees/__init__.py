"""Referees: outside judges of a structure, one class each, known by the entry point group."""
