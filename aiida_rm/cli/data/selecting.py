"""Which structures of a set: the options of `show`, `export` and `plot`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import click

#: Inputs of a process that hold words and formulas; YAML takes NO for false.
TEXTS = ("formula", "formulas", "name", "match", "match_loose", "smiles")
#: What YAML takes for a text, such as 1e-3 without a point; not inf or nan, which are formulas.
_PLAIN = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")

_OPTIONS = (
    click.option(
        "-n", "--limit", type=click.IntRange(1), metavar="N", help="So many structures at most."
    ),
    click.option("--sort", metavar="NAME", help="In the order of this label; -NAME: falling."),
    click.option(
        "-r",
        "--rule",
        "rules",
        multiple=True,
        metavar="NAME=VALUE",
        help="Those that meet this rule, such as valid=true, match=diamond, max_fmax=0.01, "
        "min_n_atoms=4; may be given several times (docs/validation.md).",
    ),
    click.option(
        "-i", "--index", "indices", metavar="LIST", help="These, such as 0,3,10-19; from 0."
    ),
)


def selection(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose structures."""
    for option in _OPTIONS:
        command = option(command)
    return command


def choose(
    frames: Any,
    indices: str | None,
    rules: Sequence[str],
    sort: str | None,
    limit: int | None,
) -> Any:
    """Indices (N,) of the structures of Frames that these options ask for.

    Raises:
        ValueError: an index or a rule is wrong, or nothing is left.
    """
    import numpy as np

    from aiida_rm.data.selection import funnel, select_indices, text_labels

    asked = np.arange(len(frames))
    if indices is not None:
        asked = np.array(parse_indices(indices, len(frames)))
    table = parse_rules(rules, text_labels(frames))
    table |= {"sort": sort} if sort else {}
    table |= {"limit": limit} if limit else {}
    part = frames.select(asked)
    chosen = asked[select_indices(part, table)]
    if not len(chosen):
        left = funnel(part, table)
        raise ValueError(f"none of {len(asked)} structures meets the rules ({left}); loosen them")
    return chosen


def parse_indices(text: str, size: int) -> list[int]:
    """Whole numbers of a list such as ``0,3,10-19``.

    Raises:
        ValueError: it is no such list, or one does not exist.
    """
    found: list[int] = []
    for part in text.replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"'{part}' is no index and no range; write them like 0,3,10-19")
        begin, end = int(first), int(last) if dash else int(first)
        if max(begin, end) >= size:
            raise ValueError(f"structure {max(begin, end)} does not exist; there are 0-{size - 1}")
        if end < begin:
            raise ValueError(f"the range '{part}' is empty; write {end}-{begin}")
        found += range(begin, end + 1)
    return found


def parse_rules(texts: Sequence[str], words: Collection[str], what: str = "rule") -> dict[str, Any]:
    """A table of rules (or of something else) given as ``NAME=VALUE``, the values as in YAML.

    Args:
        texts: each ``NAME=VALUE``.
        words: names, or last parts of such as ``a.b.NAME``, whose values are texts whatever they
            look like, or lists of them.
        what: they are, for messages.

    Raises:
        ValueError: one cannot be read, or a name is given twice.
    """
    import yaml

    table: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            example = "valid=true or max_fmax=0.01" if what == "rule" else "rounds=3"
            raise ValueError(f"'{text}' is no {what}; write it like {example}")
        if name in table:
            raise ValueError(f"the {what} '{name}' is given twice; for several values write a list")
        if name.rpartition(".")[2] in words:
            table[name] = _words(value)
            continue
        try:
            table[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"the value of the {what} '{text}' cannot be read") from error
        if isinstance(table[name], str) and _PLAIN.fullmatch(table[name]):
            table[name] = float(table[name])
    return table


def _words(value: str) -> str | list[str] | None:
    """A text, or a list of texts as YAML writes it; null is nothing, as everywhere."""
    import yaml

    if value == "null":
        return None

    try:
        read = yaml.load(value, yaml.BaseLoader)  # noqa: S506 - it makes texts of everything
    except yaml.YAMLError:
        return value
    words = read if isinstance(read, list) else [read]
    return read if all(isinstance(word, str) for word in words) else value
