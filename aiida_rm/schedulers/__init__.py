"""Schedulers that AiiDA does not have."""
