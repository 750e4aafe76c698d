"""JSON taken apart as it is read."""

from __future__ import annotations

import io
import json

import pytest

from aiida_rm.engine.reading import json_stream
from aiida_rm.engine.reading.json_stream import json_values

ENTRY = {"sites": [1.5, None, 'a ] } " b'], "more": {"deep": [[], {}]}}


def values(text: str) -> list[tuple[str, object]]:
    return list(json_values(io.StringIO(text)))


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("indent", [None, 2])
def test_all_layouts(chunk: int, indent: int | None, monkeypatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)

    def text(value: object) -> str:
        return json.dumps(value, indent=indent)

    assert values(text([ENTRY, 12345, "x"])) == [("", ENTRY), ("", 12345), ("", "x")]
    assert values(text({"a": ENTRY, "b": ENTRY})) == [("a", ENTRY), ("b", ENTRY)]
    assert values(text(ENTRY)) == [("", ENTRY)]
    whole = {"id": 3, "structure": ENTRY, "symmetry": {"number": 1}}
    assert values(text(whole)) == [("", whole)]
    assert values("\n".join([text(ENTRY), text(whole)])) == [("", ENTRY), ("", whole)]
    assert values(text({"1": {"numbers": []}, "ids": [1], "nextid": 2})) == [("1", {"numbers": []})]
    assert values(" [ ] ") == values("{}") == values("") == []


def test_strange_members_are_not_lost() -> None:
    assert values(json.dumps({"a": None, "b": ENTRY, "c": {"d": 1}})) == [
        ("b", ENTRY),
        ("a", None),
        ("c", {"d": 1}),
    ]


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ("", "expected ',', not the end"),
        (",", "too early"),
        (', {"a', "too early or"),
        ("; 3]", "expected ',', not ;"),
        (", nonsense]", "is no JSON"),
    ],
)
def test_broken_files_give_what_came_before(tail: str, message: str) -> None:
    stream = json_values(io.StringIO("[" + json.dumps(ENTRY) + tail))
    assert next(stream) == ("", ENTRY)
    with pytest.raises(ValueError, match=message):
        next(stream)


def test_a_table_needs_keys() -> None:
    for text in ("{1: 2}", '{"a" 2}', '{"a": 2', "3"):
        with pytest.raises(ValueError, match="expected"):
            values(text)


def test_an_endless_value_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", 100)
    monkeypatch.setattr(json_stream, "LONGEST", 1000)
    stream = io.StringIO('["' + "x" * 100_000)
    with pytest.raises(ValueError, match="an entry is no JSON"):
        next(json_values(stream))
    assert stream.tell() < 5000


def test_the_file_is_not_read_ahead(monkeypatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", 1000)
    text = json.dumps([ENTRY] * 1000)
    stream = io.StringIO(text)
    found = json_values(stream)
    for count in range(1, 1001):
        next(found)
        assert stream.tell() <= len(text) * count / 1000 + 2000
    with pytest.raises(StopIteration):
        next(found)
