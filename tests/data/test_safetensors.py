"""PotentialData and TrainingStateData: what they accept, keep, and refuse."""

from __future__ import annotations

import importlib
import io
import json
import pickle
import types

import pytest
from aiida import orm
from aiida.common.exceptions import ValidationError
from safetensors.numpy import load_file

from aiida_rm.data.potential import PotentialData
from aiida_rm.data.safetensors_header import MAX_HEADER, HeaderError, read_header, small
from aiida_rm.data.training_state import TrainingStateData
from tests.conftest import POTENTIAL_HEADER, STATE_HEADER


def pack(table: object, data: bytes = b"") -> bytes:
    """A file with this header, however wrong."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + data


def with_tensors(**tensors: object) -> dict:
    return {"__metadata__": {"header": json.dumps(POTENTIAL_HEADER)}, **tensors}


def entry(begin: int, end: int, dtype: str = "U8", shape: object = None) -> dict:
    shape = [end - begin] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_potential_round_trip(potential_data, potential_file, tmp_path):
    node = potential_data.store()
    loaded = orm.load_node(node.pk)
    assert isinstance(loaded, PotentialData)
    assert loaded.filename == "potential.safetensors"
    assert loaded.get_content("rb") == potential_file.read_bytes()
    assert loaded.get_header() == POTENTIAL_HEADER
    assert (loaded.architecture, loaded.elements) == ("local", ["C"])
    assert (loaded.cutoff, loaded.n_parameters) == (4.5, 12)
    assert loaded.base.attributes.get("dtype") == "float32"
    assert loaded.base.attributes.get("training") == {"epochs": 3, "force_error": 0.125}
    assert loaded.base.attributes.get("schema_version") == 1
    with loaded.as_path() as path:
        assert load_file(path)["weights"].shape == (3, 4)


def test_state_round_trip(training_state_data):
    loaded = orm.load_node(training_state_data.store().pk)
    assert isinstance(loaded, TrainingStateData)
    assert loaded.filename == "training_state.safetensors"
    assert (loaded.epoch, loaded.step, loaded.digest) == (12, 3400, STATE_HEADER["digest"])
    assert loaded.get_header() == STATE_HEADER


def test_hash_depends_on_content_alone(potential_file, tmp_path, write_safetensors):
    other = tmp_path / "elsewhere.bin"
    other.write_bytes(potential_file.read_bytes())
    nodes = [
        PotentialData(potential_file),
        PotentialData(str(other), label="other"),
        PotentialData(io.BytesIO(other.read_bytes())),
        PotentialData.from_bytes(other.read_bytes(), "a_name"),
    ]
    hashes = {node.store().base.caching.get_hash() for node in nodes}
    assert len(hashes) == 1
    changed = write_safetensors(tmp_path / "changed", POTENTIAL_HEADER, seed=1)
    assert PotentialData(changed).store().base.caching.get_hash() not in hashes


def test_queries(aiida_profile_clean, potential_data, training_state_data):
    potential_data.store()
    training_state_data.store()
    fields = PotentialData.fields
    builder = orm.QueryBuilder().append(
        PotentialData, filters=fields.cutoff < 5, project=[fields.architecture, fields.elements]
    )
    assert builder.all() == [["local", ["C"]]]
    builder = orm.QueryBuilder().append(
        PotentialData, filters={"attributes.elements": {"contains": ["H"]}}
    )
    assert builder.count() == 0
    builder = orm.QueryBuilder().append(
        PotentialData, filters={"attributes.training.force_error": {"<": 0.2}}
    )
    assert builder.count() == 1
    epoch = TrainingStateData.fields.epoch
    assert orm.QueryBuilder().append(TrainingStateData, filters=epoch > 10).count() == 1


def test_relative_path(potential_file, monkeypatch):
    monkeypatch.chdir(potential_file.parent)
    assert PotentialData(potential_file.name).elements == ["C"]


def test_get_calculator_opens_the_engine_by_name(potential_data, monkeypatch):
    seen = {}

    class ResponseMatchingCalculator:
        @classmethod
        def from_file(cls, path, **kwargs):
            seen.update(kwargs, content=path.read_bytes())
            return "calculator"

    module = types.SimpleNamespace(ResponseMatchingCalculator=ResponseMatchingCalculator)
    monkeypatch.setattr(importlib, "import_module", lambda name: {CALCULATOR: module}[name])
    assert potential_data.get_calculator(device="cpu") == "calculator"
    assert seen["device"] == "cpu"
    assert seen["content"] == potential_data.get_content("rb")


CALCULATOR = "aiida_rm.engine.calculator"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "only 0 bytes"),
        (b"short", "only 5 bytes"),
        (pickle.dumps({"weights": [1]}), "pickle"),
        (b"PK\x03\x04" + b"\0" * 60, "pickle or a torch archive"),
        (b"x" * 100, "does not begin with the size"),
        ((MAX_HEADER + 1).to_bytes(8, "little") + b"{" + b" " * (MAX_HEADER + 9), "the limit is"),
        ((2**64 - 1).to_bytes(8, "little") + b"{}", "does not begin with the size"),
        ((100).to_bytes(8, "little") + b"{}", "truncated"),
        (pack(b"[]"), "not a JSON table"),
        (pack(b"{bad json}"), "cannot be read as JSON"),
        (pack(b'{"a": "\xff"}'), "cannot be read as JSON"),
        (pack(b'{"a":' + b"[" * 100_000), "cannot be read as JSON"),
        (pack(b'{"a": 1, "a": 2}'), "'a' appears twice"),
        (pack({}), "not one that this project's engine wrote"),
        (pack({"__metadata__": {"format": "pt"}}), "not one that this project's engine wrote"),
        (pack({"__metadata__": {"header": "[1]"}}), "is not a JSON table"),
        (pack({"__metadata__": {"header": "nonsense"}}), "document .* cannot be read"),
        (pack(with_tensors(a=entry(0, 4)), b"123"), "truncated"),
        (pack(with_tensors(a=entry(0, 4)), b"12345"), "damaged"),
        (pack(with_tensors(a=entry(0, 4), b=entry(3, 7)), b"1234567"), "'b' overlaps"),
        (pack(with_tensors(a=entry(0, 4), b=entry(0, 4)), b"1234"), "'b' overlaps"),
        (pack(with_tensors(a=entry(0, 4), b=entry(5, 7)), b"1234567"), "'b' leaves a gap"),
        (pack(with_tensors(a=entry(0, 4, "F32", [2])), b"1234"), "tensor 'a' is not valid"),
        (pack(with_tensors(a=entry(0, 4, "U8", [-2, -2])), b"1234"), "tensor 'a'"),
        (pack(with_tensors(a=entry(0, 4, "U8", [True, 4])), b"1234"), "tensor 'a'"),
        (pack(with_tensors(a=entry(0, 4, "U8", [4] + [1] * 30)), b"1234"), "tensor 'a'"),
        (pack(with_tensors(a=entry(0, 4, "object")), b"1234"), "tensor 'a'"),
        (pack(with_tensors(a=entry(4, 0)), b"1234"), "tensor 'a'"),
        (pack(with_tensors(a={**entry(0, 4), "more": 1}), b"1234"), "tensor 'a'"),
        (pack(with_tensors(a=[0, 4]), b"1234"), "tensor 'a'"),
        (pack(with_tensors(a={**entry(0, 4), "data_offsets": [4]}), b"1234"), "tensor 'a'"),
    ],
)
def test_untrusted_files(content, message):
    for cls in (PotentialData, TrainingStateData):
        with pytest.raises(HeaderError, match=message):
            cls(io.BytesIO(content))


def test_truncated_at_any_length(potential_file):
    content = potential_file.read_bytes()
    for length in range(0, len(content), 7):
        with pytest.raises(HeaderError):
            PotentialData(io.BytesIO(content[:length]))


def test_a_file_of_the_other_kind(potential_file, state_file):
    with pytest.raises(HeaderError, match="is a 'training_state', not a 'potential'"):
        PotentialData(state_file)
    with pytest.raises(HeaderError, match="is a 'potential', not a 'training_state'"):
        TrainingStateData(potential_file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "version 2"),
        ({"schema": True}, "version True"),
        ({"elements": []}, "'elements' in the header is empty"),
        ({"elements": "C"}, "'elements' in the header must be of type list"),
        ({"elements": ["C", "Xx"]}, "'Xx', which is no element"),
        ({"elements": ["X"]}, "'X', which is no element"),
        ({"elements": ["C", "C"]}, "twice"),
        ({"cutoff": 0}, "must be positive"),
        ({"cutoff": "4"}, "'cutoff' in the header must be of type float"),
        ({"cutoff": float("nan")}, "'cutoff' in the header must be of type float"),
        ({"n_parameters": -1}, "n_parameters"),
        ({"n_parameters": 1.5}, "n_parameters"),
        ({"dtype": "int8"}, "dtype"),
        ({"architecture": None}, "architecture"),
        ({"architecture": ""}, "architecture"),
    ],
)
def test_bad_potential_headers(change, message, tmp_path, write_safetensors):
    path = write_safetensors(tmp_path / "bad", {**POTENTIAL_HEADER, **change})
    with pytest.raises(HeaderError, match=message):
        PotentialData(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": -1}, "'epoch'"),
        ({"step": None}, "'step'"),
        ({"digest": "abc"}, "SHA-256"),
        ({"digest": 1}, "'digest'"),
    ],
)
def test_bad_state_headers(change, message, tmp_path, write_safetensors):
    path = write_safetensors(tmp_path / "bad", {**STATE_HEADER, **change})
    with pytest.raises(HeaderError, match=message):
        TrainingStateData(path)


def test_wrong_types(tmp_path):
    for wrong in (None, 3, ["path"]):
        with pytest.raises(TypeError, match="needs a path or a file"):
            PotentialData(wrong)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        PotentialData(tmp_path / "missing")
    with pytest.raises(HeaderError, match="binary mode"):
        PotentialData(io.StringIO("text of some length"))


def test_attributes_set_by_hand_are_refused(potential_data):
    potential_data.base.attributes.set("elements", ["H"])
    with pytest.raises(ValidationError, match="elements"):
        potential_data.store()


def test_a_file_exchanged_by_hand_is_refused(potential_data):
    potential_data.base.repository.put_object_from_bytes(b"bad", "potential.safetensors")
    with pytest.raises(ValidationError, match="only 3 bytes"):
        potential_data.store()


def test_what_is_not_finite_becomes_nothing(tmp_path, write_safetensors):
    header = {**POTENTIAL_HEADER, "training": {"loss": float("nan"), "best": float("inf"), "n": 1}}
    node = PotentialData(write_safetensors(tmp_path / "nan", header)).store()
    assert node.base.attributes.get("training") == {"loss": None, "best": None, "n": 1}


def test_the_database_is_spared_long_values():
    assert small({"a": list(range(1000)), "b": {"c": 1.5}, "d": "x" * 999, "e": True}) == {
        "a": None, "b": {"c": 1.5}, "d": "x" * 200, "e": True,
    }  # fmt: skip
    assert small([[[[1]]]]) == [[[None]]]


def test_reading_leaves_the_file_at_its_start(potential_file):
    with potential_file.open("rb") as handle:
        handle.read(5)
        read_header(handle, "potential")
        assert handle.tell() == 0


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580, 0x4B50])
def test_lengths_that_begin_like_a_pickle_or_an_archive(length: int) -> None:
    """One header in thirty-two has such a length."""
    text = json.dumps(with_tensors(a=entry(0, 4))).encode()
    content = pack(text + b" " * (length - len(text)), b"\0" * 4)
    assert content[:1] == b"\x80" or content[:2] == b"PK"
    assert PotentialData(io.BytesIO(content)).elements == ["C"]
