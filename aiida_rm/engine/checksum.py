"""Whether a safetensors file still is what was written: its header holds a SHA-256 of the rest.

Without torch, so that a file that comes back from a job is checked before it is stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import IO, Any

#: The entry of the header.
NAME = "checksum"
_CHUNK = 1 << 20


def seal(content: bytes) -> dict[str, Any]:
    """The header of a whole file, with a checksum: the file is to be written again with it."""
    length = int.from_bytes(content[:8], "little")
    table = json.loads(content[8 : 8 + length])
    header = json.loads(table["__metadata__"]["header"])
    return {**header, NAME: _digest(table, header, [memoryview(content)[8 + length :]])}


def check_seal(handle: IO[bytes]) -> None:
    """Read a file, whose header must have been found valid, to its end.

    A file without a checksum, of an earlier version, passes.

    Raises:
        ValueError: a byte of it has changed since it was written.
    """
    handle.seek(0)
    table = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
    header = json.loads(table["__metadata__"]["header"])
    wanted = header.pop(NAME, None) if isinstance(header, dict) else None
    if wanted is None:
        return
    if _digest(table, header, iter(lambda: handle.read(_CHUNK), b"")) != wanted:
        raise ValueError("its checksum is not that of its content: bytes were lost or changed")


def _digest(table: dict[str, Any], header: dict[str, Any], data: Iterable[Any]) -> str:
    tensors = {name: entry for name, entry in table.items() if name != "__metadata__"}
    digest = hashlib.sha256(json.dumps([tensors, header], sort_keys=True).encode())
    for chunk in data:
        digest.update(chunk)
    return digest.hexdigest()
