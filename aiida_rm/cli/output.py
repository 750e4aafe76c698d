"""Tables and JSON on the screen."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any, TextIO

import click

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
#: So many days ago: a hundred years at most, for dates end.
DAYS = click.IntRange(0, 36_500)
#: AiiDA's own OVERWRITE begins with -o, which is that of --output here; its exports have --force.
OVERWRITE = click.option(
    "-f", "--overwrite", "--force", "overwrite", is_flag=True, help="Write over what is there."
)
#: Characters of one cell of a table.
_LONGEST = 40
#: Where JSON goes while all else goes to the other stream.
_OUT: ContextVar[TextIO | None] = ContextVar("aiida_rm_json", default=None)


@contextlib.contextmanager
def json_alone() -> Iterator[None]:
    """What AiiDA says meanwhile goes to the error stream, so that the output stays one document."""
    token = _OUT.set(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _OUT.reset(token)


def print_json(value: Any) -> None:
    """One JSON document; NaN and infinity, which JSON does not know, are null."""
    click.echo(json.dumps(plain(value), indent=1), file=_OUT.get())


def print_table(
    rows: Sequence[Mapping[Any, Any]], headers: Mapping[Any, str], longest: int = _LONGEST
) -> None:
    """Rows under headers.

    Args:
        rows: values by name; one that is absent stays empty.
        headers: header of each column by name, in order.
        longest: characters of a cell; the rest is cut off.
    """
    from tabulate import tabulate

    cells = [[_cell(row.get(name), longest) for name in headers] for row in rows]
    numbers = [all(_is_number(row.get(name)) for row in rows) for name in headers]
    click.echo(
        tabulate(
            cells,
            headers=list(headers.values()),
            disable_numparse=True,
            colalign=["right" if number else "left" for number in numbers] if rows else None,
        )
    )


def print_pairs(pairs: Mapping[str, Any]) -> None:
    """Names and values, one a line; what is None is left out."""
    from tabulate import tabulate

    rows = [[name, _cell(value, None)] for name, value in pairs.items() if value is not None]
    click.echo(tabulate(rows, tablefmt="plain", disable_numparse=True))


def plain(value: Any) -> Any:
    """The same of what JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "tolist"):  # numpy's
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def counted(number: int, one: str, many: str = "") -> str:
    """Such as ``1 structure`` and ``4 structures``; ``many`` is ``one`` with an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def shorten(items: Iterable[Any], most: int) -> str:
    """The first few of a list, and how many there are more."""
    texts = [str(item) for item in items]
    more = f" +{len(texts) - most}" if len(texts) > most else ""
    return " ".join(texts[:most]) + more


def _is_number(value: Any) -> bool:
    value = plain(value)
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(value: Any, longest: int | None = _LONGEST) -> str:
    value = plain(value)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}"
    text = " ".join(str(value).split()) if not isinstance(value, list) else shorten(value, 6)
    return text if longest is None or len(text) <= longest else text[: longest - 3] + "..."
