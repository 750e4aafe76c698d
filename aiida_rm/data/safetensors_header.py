"""Reading the header of a safetensors file without torch and without trusting it.

The format (https://github.com/huggingface/safetensors): eight bytes with the length of the
header, little-endian; the header, a JSON table of tensors; the tensors, without gaps. This
project's files carry one more JSON document in it, under ``__metadata__`` and ``header``.
"""

from __future__ import annotations

import json
import math
import os
from abc import abstractmethod
from pathlib import Path
from typing import IO, Any, ClassVar

from aiida.common.exceptions import ValidationError
from aiida.orm import SinglefileData

from aiida_rm.data.plain import plain_text
from aiida_rm.engine.checksum import check_seal
from aiida_rm.engine.elements import NUMBERS
from aiida_rm.engine.errors import brief

#: Largest header that is read, in bytes.
MAX_HEADER = 1_000_000
#: Most dimensions a tensor may have.
_MAX_DIMENSIONS = 16
#: Bytes of one number of each type of the format that this project may meet.
_ITEM_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
#: Smallest number that every database takes.
_MIN_INT = -(2**63)
#: What a database attribute should not outgrow: items of a list or table, letters of a text.
_MAX_ITEMS, _MAX_TEXT = 100, 200


class HeaderError(ValueError):
    """A file is no safetensors file of this project, or not of the kind that is wanted."""


def read_header(handle: IO[bytes], kind: str, schema: int = 1) -> dict[str, Any]:
    """Read and check the header of an open file; the tensors are not read.

    Args:
        handle: the file, binary and seekable; it is rewound before and after.
        kind: what the file must be, ``potential`` or ``training_state``.
        schema: the version that it must have.

    Returns:
        The JSON document that the engine wrote; numbers that are not finite are ``None``.

    Raises:
        HeaderError: not such a file, truncated, a header above 1 MB, tensors that overlap or
            leave the file, another kind or version.
    """
    handle.seek(0, os.SEEK_END)
    size = handle.tell()
    handle.seek(0)
    try:
        table, data_size = _read_table(handle, size)
    finally:
        handle.seek(0)
    metadata = table.pop("__metadata__", None)
    _check_tensors(table, data_size)
    return _check_document(metadata, kind, schema)


def _read_table(handle: IO[bytes], size: int) -> tuple[dict[str, Any], int]:
    """The JSON table, and how many bytes follow it."""
    start = handle.read(8)
    if not isinstance(start, bytes):
        raise HeaderError("the file is open as text; open it in binary mode")
    # A length may begin with these bytes as well; then the table follows.
    foreign = start[:2] == b"PK" or start[:1] == b"\x80"
    if foreign and handle.read(1) != b"{":
        raise HeaderError(
            "this is a pickle or a torch archive, which could run any program when it is read; "
            "only safetensors files are accepted"
        )
    if size < 8:
        raise HeaderError(f"no safetensors file: it has only {size} bytes")
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER:
        if length > size:
            raise HeaderError("no safetensors file: it does not begin with the size of its header")
        raise HeaderError(
            f"no safetensors file of this project: its header would have {length} bytes, "
            f"the limit is {MAX_HEADER}"
        )
    if length > size - 8:
        raise HeaderError(
            f"the file is truncated: its header should have {length} bytes, {size - 8} are there"
        )
    handle.seek(8)
    content = handle.read(length)
    if content[:1] != b"{":
        raise HeaderError("no safetensors file: its header is not a JSON table")
    return _parse_json(content, "the header"), size - 8 - length


def _parse_json(content: bytes | str, what: str) -> dict[str, Any]:
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        table = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=lambda _: None,  # databases know neither NaN nor infinity
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"{what} cannot be read as JSON: {brief(error)}") from error
    if not isinstance(table, dict):
        raise HeaderError(f"{what} is not a JSON table")
    return table


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise ValueError(f"{brief(name)} appears twice")
        table[name] = value
    return table


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _check_tensors(table: dict[str, Any], size: int) -> None:
    """Every tensor has the bytes that its shape needs, one after the other, to the end."""
    spans = sorted(_span(name, entry) for name, entry in table.items())
    position = 0
    for begin, end, name in spans:
        if begin != position:
            what = "overlaps the one before it" if begin < position else "leaves a gap before it"
            raise HeaderError(f"the file is damaged: tensor {brief(name)} {what}")
        position = end
    if position != size:
        what = "truncated" if position > size else "damaged"
        raise HeaderError(f"the file is {what}: its tensors need {position} bytes, it holds {size}")


def _span(name: str, entry: Any) -> tuple[int, int, str]:
    wrong = HeaderError(f"the file is damaged: the entry of tensor {brief(name)} is not valid")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise wrong
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_SIZES:
        raise wrong
    if not _counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise wrong
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise wrong
    if math.prod(shape) * _ITEM_SIZES[dtype] != offsets[1] - offsets[0]:
        raise wrong
    return offsets[0], offsets[1], name


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _check_document(metadata: Any, kind: str, schema: int) -> dict[str, Any]:
    text = metadata.get("header") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise HeaderError(
            "a safetensors file, but not one that this project's engine wrote: it has no "
            "'header' in its metadata"
        )
    document = _parse_json(text, "the document in the header")
    if document.get("kind") != kind:
        raise HeaderError(f"the file is a {brief(document.get('kind'))}, not a {kind!r}")
    if type(document.get("schema")) is not int or document["schema"] != schema:
        raise HeaderError(
            f"the file has version {brief(document.get('schema'))} of the format, this program "
            f"reads {schema}; use the program that wrote it"
        )
    return document


def need(document: dict[str, Any], name: str, kind: type) -> Any:
    """One entry of a document, of the type ``kind`` (an int also serves as a float).

    Raises:
        HeaderError: it is missing or of another type.
    """
    value = document.get(name)
    if kind is float and type(value) is int and _MIN_INT <= value < -_MIN_INT:
        value = float(value)
    if type(value) is not kind:
        raise HeaderError(
            f"'{name}' in the header must be of type {kind.__name__}, is {brief(value)}"
        )
    if isinstance(value, int) and not _MIN_INT <= value < -_MIN_INT:
        raise HeaderError(f"'{name}' in the header does not fit into 64 bits")
    return value


def need_elements(document: dict[str, Any]) -> list[str]:
    """The known, distinct chemical symbols under ``elements``.

    Raises:
        HeaderError: there are none, or one is no element or repeated.
    """
    elements = need(document, "elements", list)
    if not elements:
        raise HeaderError("'elements' in the header is empty")
    for symbol in elements:
        if not isinstance(symbol, str) or symbol not in NUMBERS:
            raise HeaderError(
                f"'elements' in the header holds {brief(symbol)}, which is no element"
            )
    if len(set(elements)) != len(elements):
        raise HeaderError("'elements' in the header holds an element twice")
    return list(elements)


def small(value: Any, depth: int = 3) -> Any:
    """A plain value cut down to what belongs into a database: no long lists, texts or nests."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if _MIN_INT <= value < -_MIN_INT else None
    if isinstance(value, str):
        return plain_text(value[:_MAX_TEXT])
    if depth and isinstance(value, dict) and len(value) <= _MAX_ITEMS:
        return {
            plain_text(name[:_MAX_TEXT]): small(item, depth - 1)
            for name, item in sorted(value.items())
        }
    if depth and isinstance(value, list) and len(value) <= _MAX_ITEMS:
        return [small(item, depth - 1) for item in value]
    return None


class SafetensorsData(SinglefileData):
    """Base of the nodes that hold one safetensors file of this project's engine."""

    #: Name of the file in the repository, and so the same hash for the same content.
    FILENAME: ClassVar[str]
    #: What the header must say the file is.
    KIND: ClassVar[str]

    def __init__(
        self,
        file: str | os.PathLike[str] | IO[bytes] | None = None,
        filename: str | None = None,  # noqa: ARG002 - AiiDA's signature; the name is fixed
        **kwargs: Any,
    ) -> None:
        """Make a node of a file.

        Args:
            file: a path, or a file open in binary mode.
            filename: without effect; the name in the repository is fixed.
            kwargs: of every AiiDA node, such as ``label``.

        Raises:
            TypeError: ``file`` is neither a path nor an open file.
            FileNotFoundError: there is no such file.
            HeaderError: it is not a file of this kind, or damaged.
        """
        if file is None:
            raise TypeError(f"{type(self).__name__} needs a path or a file open in binary mode")
        super().__init__(**kwargs)
        self.set_file(file)

    @classmethod
    @abstractmethod
    def attributes_of(cls, header: dict[str, Any]) -> dict[str, Any]:
        """The attributes of a node with this header; subclasses check what they need.

        Raises:
            HeaderError: an entry is missing or wrong.
        """

    def set_file(self, file: Any, filename: Any = None) -> None:  # noqa: ARG002
        """Check a file and put it into the repository under its fixed name."""
        if isinstance(file, str | os.PathLike):
            path = Path(file)
            if not path.is_file():
                raise FileNotFoundError(f"there is no file '{path}'")
            try:
                with path.open("rb") as handle:
                    self._put(handle)
            except HeaderError as error:
                raise HeaderError(f"'{path.name}': {error}") from error
        elif hasattr(file, "read") and hasattr(file, "seek"):
            self._put(file)
        else:
            raise TypeError(
                f"{type(self).__name__} needs a path or a file open in binary mode, "
                f"not {type(file).__name__}"
            )

    def get_header(self) -> dict[str, Any]:
        """The whole JSON document that the engine wrote into the file."""
        with self.open(mode="rb") as handle:
            return read_header(handle, self.KIND)

    def _put(self, handle: IO[bytes]) -> None:
        attributes = self.attributes_of(read_header(handle, self.KIND))
        try:
            check_seal(handle)
        except (ValueError, RecursionError) as error:
            raise HeaderError(str(error)) from error
        finally:
            handle.seek(0)
        super().set_file(handle, filename=self.FILENAME)
        self.base.attributes.set_many(attributes)

    def _validate(self) -> bool:
        """Called by AiiDA before storing."""
        super()._validate()
        try:
            wanted = self.attributes_of(self.get_header())
        except HeaderError as error:
            raise ValidationError(str(error)) from error
        wanted["filename"] = self.FILENAME
        found = {name: self.base.attributes.get(name, None) for name in wanted}
        wrong = [name for name, value in wanted.items() if found[name] != value]
        if wrong:
            raise ValidationError(
                f"the attributes {', '.join(wrong)} do not fit the file; do not set them by hand"
            )
        return True
