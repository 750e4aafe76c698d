"""Parsers: one a job, under the same entry point name."""
