"""Texts of strangers, for a database."""

from __future__ import annotations


def plain_text(text: str) -> str:
    """The same without NUL and lone surrogates: legal in JSON, refused by databases."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
