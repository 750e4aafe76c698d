"""Reading results.json and metrics.jsonl from anyone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aiida_rm.parsers.reading import MAX_RESULTS_BYTES, UnreadableError, read_metrics, read_results
from tests.jobs import results


def encode(content: object) -> bytes:
    return json.dumps(content).encode()


def test_good_results_come_back_as_they_are() -> None:
    content = results("train", summary={"epochs": 3, "validation": {"force_error": 0.5}})
    assert read_results(encode(content), "train") == content


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (encode(results("train"))[:-20], "not whole JSON"),
        (b"\xff\xfe\x00garbage", "not whole JSON"),
        (b"\x80\x04\x95pickle", "not whole JSON"),
        (b"[" * 100_000, "not whole JSON"),
        (b"[1, 2]", "a list, not a table"),
        (b"null", "NoneType, not a table"),
        (b" " * (MAX_RESULTS_BYTES + 1), "bytes, at most"),
        (encode({}), "schema is None"),
        (encode(results("train", schema=2)), "schema is 2"),
        (encode(results("train", schema=True)), "schema is True"),
        (encode(results("score")), "of the task 'score', not of 'train'"),
        (encode(results("train", status="done")), "status is 'done'"),
        (encode(results("train", status=["x"] * 100)), "status is"),
        (encode(results("train", stop_reason="tired")), "stop_reason is 'tired'"),
        (encode(results("train", stop_reason={})), "stop_reason is {}"),
        (encode(results("train", error="bad")), "error is not"),
        (encode(results("train", error={"code": 3, "message": "x"})), "error is not"),
        (encode(results("train", status="failed")), "without an error"),
        (encode(results("train", summary=[])), "summary is not"),
        (encode(results("train", engine=None)), "engine is not"),
        (encode(results("train", wall_seconds="long")), "wall_seconds is no number"),
        (
            b'{"schema": 1, "task": "train", "summary": ' + b'{"a":' * 20 + b"1" + b"}" * 21,
            "nested deeper",
        ),
        (b'{"schema": ' + b"9" * 5000 + b"}", "not whole JSON"),
    ],
)
def test_foreign_results_are_refused(content: bytes, says: str) -> None:
    with pytest.raises(UnreadableError, match=says.replace("[", r"\[")):
        read_results(content, "train")


def test_results_are_made_safe_for_a_database() -> None:
    text = json.dumps(results("train"))[:-1] + (
        r', "extra": {"nan": NaN, "inf": -Infinity, "big": 1e999, "long": 99999999999999999999,'
        r' "nul": "a\u0000b", "half": "\ud800", "key\u0000": true}}'
    )
    extra = read_results(text.encode(), "train")["extra"]
    assert extra["nan"] is None
    assert extra["inf"] is None
    assert extra["big"] is None
    assert extra["long"] == pytest.approx(1e20)
    assert extra["nul"] == "ab"
    assert extra["half"] == "?"
    assert extra["key"] is True


def test_metrics_become_one_array_a_quantity() -> None:
    lines = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "force_error": 0.5}]
    curves = read_metrics("\n".join(json.dumps(line) for line in lines).encode())
    assert curves["epoch"].tolist() == [1, 2]
    assert curves["loss"].tolist() == [2, 1]
    assert np.isnan(curves["force_error"][0])
    assert curves["force_error"][1] == 0.5


def test_metrics_of_a_killed_job_lose_only_the_last_line() -> None:
    curves = read_metrics(b'{"epoch": 1, "loss": 2.0}\n{"epoch": 2, "lo')
    assert curves["loss"].tolist() == [2]


def test_foreign_metrics_are_left_out() -> None:
    content = (
        b"\x00\xff\n[1]\n3\nnull\n"
        b'{"stage": "x", "../up": 1, "a-b": 2, "list": [1], "clipped": true, "loss": NaN}\n'
        + b"{"
        * 100_000
    )
    curves = read_metrics(content)
    assert sorted(curves) == ["clipped", "loss"]
    assert curves["clipped"].tolist() == [1.0]
    assert np.isnan(curves["loss"]).all()
    assert read_metrics(b"") == {}
    assert read_metrics(b'{"huge": 1' + b"0" * 400 + b"}") == {}


def test_the_number_of_quantities_is_bounded() -> None:
    line = json.dumps({f"q{index}": index for index in range(500)})
    assert len(read_metrics(line.encode())) == 64
