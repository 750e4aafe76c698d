"""FramesData: round trips, hashes, queries, and everything that must be refused."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from aiida import orm
from aiida.common.exceptions import ModificationNotAllowed, ValidationError

from aiida_rm.data.frames import FramesData, InvalidFramesError
from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.formulas import count_formulas
from aiida_rm.engine.frames import Frames


def labelled(count: int = 3) -> Frames:
    """Crystals of one to ``count`` atoms with labels of every kind."""
    sizes = range(1, count + 1)
    rng = np.random.default_rng(1)
    return Frames.build(
        [[6] * (size - 1) + [1] for size in sizes],
        [rng.random((size, 3)) for size in sizes],
        cells=[np.eye(3) * (2 + size) for size in sizes],
        structure={
            "name": [f"n{size}" for size in sizes],
            "valid": [size % 2 == 0 for size in sizes],
            "energy": np.linspace(-1, np.nan, count),
            "rdf": np.ones((count, 4), np.float32),
        },
        atom={"force": rng.random((sum(sizes), 3)), "coordination": np.arange(sum(sizes))},
    )


def assert_same(left: Frames, right: Frames) -> None:
    first, second = left.to_arrays(), right.to_arrays()
    assert sorted(first) == sorted(second)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)
        assert array.dtype.kind == second[name].dtype.kind


def npy(array: np.ndarray, **kwargs) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **kwargs)
    return stream.getvalue()


def test_round_trip_through_the_database():
    frames = labelled()
    node = FramesData(frames, label="some").store()
    loaded = orm.load_node(node.pk)
    assert isinstance(loaded, FramesData)
    assert loaded.label == "some"
    assert len(loaded) == loaded.n_structures == 3
    assert_same(loaded.get_frames(), frames)
    np.testing.assert_array_equal(loaded.get_array("atom_force"), frames.atom["force"])
    loaded.clear_internal_cache()
    assert_same(loaded.get_frames(), frames)
    assert_same(loaded.clone().get_frames(), frames)


def test_folder_and_back(tmp_path):
    frames = labelled()
    node = FramesData.from_folder(frames.save(tmp_path / "frames"))
    assert_same(node.get_frames(), frames)
    # The repository is the folder: a job that gets its files can load them.
    [(uuid, source, destination)] = node.local_copy_list("copied")
    assert uuid == node.uuid
    node.base.repository.copy_tree(tmp_path / destination, source)
    assert_same(Frames.load(tmp_path / "copied"), frames)


def test_lost_files():
    frames = labelled()
    frames.structure["energy"][0] = 0.1234567  # in no other node
    node = FramesData(frames).store()
    key = node.base.repository.metadata["o"]["structure_energy.npy"]["k"]
    node.backend.get_repository().delete_objects([key])
    with pytest.raises(InvalidFramesError, match="structure_energy lost from the profile's"):
        orm.load_node(node.pk).get_frames()


def test_attributes():
    node = FramesData(labelled())
    assert node.n_atoms == 6
    assert node.elements == ["H", "C"]
    assert node.formulas == {"H": 1, "CH": 1, "C2H": 1}
    assert node.pbc_kind == "crystal"
    assert node.structure_labels == ["energy", "name", "rdf", "valid"]
    assert node.atom_labels == ["coordination", "force"]
    get = node.base.attributes.get
    assert (get("n_atoms_min"), get("n_atoms_max")) == (1, 3)
    assert get("volume_per_atom_min") == pytest.approx(27)
    assert get("volume_per_atom_max") == pytest.approx(125 / 3, abs=1e-6)
    assert get("formulas_other") == 0
    assert get("schema_version") == 1


@pytest.mark.parametrize(
    ("pbc", "kind"),
    [
        ([[0, 0, 0], [0, 0, 0]], "molecule"),
        ([[1, 1, 1], [1, 1, 1]], "crystal"),
        ([[1, 1, 0], [0, 0, 1]], "partial"),
        ([[1, 1, 1], [0, 0, 0]], "mixed"),
    ],
)
def test_pbc_kind(pbc, kind):
    frames = Frames.build([[6], [6]], [[[0, 0, 0]]] * 2, cells=[np.eye(3) * 5] * 2, pbc=pbc)
    node = FramesData(frames)
    assert node.pbc_kind == kind
    crystals = any(all(row) for row in pbc)
    assert (node.base.attributes.get("volume_per_atom_min") is not None) == crystals


def test_formulas_are_capped_and_counted():
    numbers = [[6] * size for size in range(1, 151)] + [[6]] * 3
    frames = Frames.build(numbers, [np.zeros((len(n), 3)) for n in numbers])
    node = FramesData(frames)
    assert len(node.formulas) == 100
    assert node.formulas["C"] == 4
    assert node.base.attributes.get("formulas_other") == 153 - sum(node.formulas.values()) == 50
    counted = count_formulas(frames)
    assert sum(counted.values()) == 153
    assert set(counted) == set(frames.formulas())


def test_queries(aiida_profile_clean, molecule_frames, diamond_frames):
    crystals, molecules = FramesData(labelled()).store(), FramesData(molecule_frames).store()
    FramesData(diamond_frames).store()

    def query(filters):
        builder = orm.QueryBuilder().append(FramesData, filters=filters, project="id")
        return set(builder.all(flat=True))

    assert query({"attributes.n_structures": {">": 2}}) == {crystals.pk}
    assert query({"attributes.elements": {"contains": ["H"]}}) == {crystals.pk, molecules.pk}
    assert query({"attributes.formulas": {"has_key": "H2O"}}) == {molecules.pk}
    assert query(FramesData.fields.n_structures == 2) == {molecules.pk}
    assert query(FramesData.fields.pbc_kind == "molecule") == {molecules.pk}
    fields = FramesData.fields
    builder = orm.QueryBuilder().append(
        FramesData, filters=fields.pbc_kind == "molecule", project=[fields.n_atoms, fields.elements]
    )
    assert builder.all() == [[5, ["H", "C", "O"]]]


SCRIPT = """
import numpy as np
from aiida import load_profile
from aiida.storage.sqlite_temp import SqliteTempBackend
load_profile(SqliteTempBackend.create_profile(debug=False), allow_switch=True)
from tests.data.test_frames_data import labelled
from aiida_rm.data.frames import FramesData
print("HASH", FramesData(labelled()).store().base.caching.get_hash())
"""


def test_hash_is_the_same_in_another_node_and_process(request, tmp_path):
    wanted = FramesData(labelled()).store().base.caching.get_hash()
    assert FramesData(labelled(), label="other").store().base.caching.get_hash() == wanted
    folder = labelled().save(tmp_path / "frames")
    assert FramesData.from_folder(folder).store().base.caching.get_hash() == wanted
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        check=False,
        capture_output=True,
        text=True,
        cwd=request.config.rootpath,
        env={"PATH": "/usr/bin:/bin", "AIIDA_PATH": str(tmp_path), "PYTHONHASHSEED": "7"},
    )
    assert f"HASH {wanted}" in result.stdout, result.stderr
    changed = labelled().with_labels(structure={"valid": [True, True, True]})
    assert FramesData(changed).store().base.caching.get_hash() != wanted


def test_hash_does_not_depend_on_how_arrays_were_made():
    frames = labelled()
    foreign = Frames(
        frames.numbers.astype(np.uint16),
        np.asfortranarray(frames.positions.astype(">f8")),
        frames.cells,
        frames.pbc,
        frames.ptr.astype(np.int32),
        {**frames.structure, "name": frames.structure["name"].astype("U40")},
        dict(reversed(frames.atom.items())),
    )
    hashes = {FramesData(f).store().base.caching.get_hash() for f in (frames, foreign)}
    assert len(hashes) == 1


def test_many_structures_are_one_small_node():
    count = 100_000
    frames = Frames(
        numbers=np.tile(np.array([6, 1], np.uint8), count),
        positions=np.zeros((2 * count, 3)),
        cells=np.tile(np.eye(3), (count, 1, 1)),
        pbc=np.ones((count, 3), bool),
        ptr=np.arange(count + 1) * 2,
    )
    node = FramesData(frames).store()
    assert node.formulas == {"CH": count}
    assert len(str(node.base.attributes.all)) < 1000


@pytest.mark.parametrize("wrong", [None, [1, 2], "frames", {"numbers": np.zeros(2)}])
def test_wrong_type_is_refused(wrong):
    with pytest.raises(TypeError, match=r"needs Frames, not .*converters"):
        FramesData(wrong)


def broken(name: str) -> Frames:
    good = labelled()
    position, cell = good.positions.copy(), good.cells.copy()
    numbers = good.numbers.copy()
    if name == "nan":
        position[1, 0] = np.nan
    elif name == "flat":
        cell[1, 2] = 0
    elif name == "element":
        numbers[0] = 200
    elif name == "empty":
        return Frames.build([], [])
    elif name == "no atoms":
        return Frames.build([[6], []], [[[0, 0, 0]], np.zeros((0, 3))])
    return Frames(numbers, position, cell, good.pbc, good.ptr)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan", "structure 1 has a position that is not"),
        ("flat", "structure 1 is periodic but its cell is missing or flat"),
        ("element", "atomic number 200"),
        ("empty", "there are no structures"),
        ("no atoms", "structure 1 has no atoms"),
    ],
)
def test_unphysical_structures_are_refused(name, message):
    with pytest.raises(ValueError, match=message) as caught:
        FramesData(broken(name))
    assert isinstance(caught.value, FramesError)


def test_a_node_cannot_be_changed(frames_data):
    with pytest.raises(ModificationNotAllowed, match="made whole"):
        frames_data.set_array("structure_energy", np.zeros(1))
    with pytest.raises(ModificationNotAllowed, match="made whole"):
        frames_data.delete_array("numbers")
    with pytest.raises(ValueError, match="read-only"):
        frames_data.get_frames().positions[0, 0] = 1.0


def test_attributes_set_by_hand_are_refused_on_storing(frames_data):
    frames_data.base.attributes.set("n_structures", 7)
    with pytest.raises(ValidationError, match="n_structures"):
        frames_data.store()


def test_files_changed_by_hand_are_refused_on_storing(frames_data):
    frames_data.base.repository.put_object_from_bytes(npy(np.zeros(3)), "positions.npy")
    with pytest.raises(ValidationError, match="positions must be"):
        frames_data.store()


def test_no_such_structure(frames_data):
    for index in (1, -1):
        with pytest.raises(IndexError, match=r"holds 0\.\.0"):
            frames_data.get_structure(index)
        with pytest.raises(IndexError, match=r"holds 0\.\.0"):
            frames_data.get_ase(index)
    with pytest.raises(TypeError, match=r"`index` must be one whole number, is \[0, 1\]"):
        frames_data.get_ase([0, 1])
    with pytest.raises(KeyError, match="there are"):
        frames_data.get_array("energies")
    with pytest.raises(ValueError, match="name one of"):
        frames_data.get_array()


def test_get_structure_and_ase(frames_data, diamond_frames):
    structure, atoms = frames_data.get_structure(0), frames_data.get_ase(0)
    assert not structure.is_stored
    assert structure.label == "diamond"
    for positions in ([site.position for site in structure.sites], atoms.positions):
        np.testing.assert_array_equal(positions, diamond_frames.positions)


def test_json_export():
    content, _ = FramesData(labelled())._exportcontent("json")
    table = json.loads(content)
    assert table["structure_name"] == ["n1", "n2", "n3"]
    assert table["structure_valid"] == [False, True, False]
    assert table["structure_energy"][2] is None
    assert table["ptr"] == [0, 1, 3, 6]


def test_archive_round_trip(tmp_path, aiida_profile_clean):
    from aiida.tools.archive import create_archive, import_archive

    node = FramesData(labelled()).store()
    uuid, content_hash = node.uuid, node.base.caching.compute_hash()
    create_archive([node], filename=tmp_path / "study.aiida")
    aiida_profile_clean.reset_storage()
    import_archive(tmp_path / "study.aiida")
    loaded = orm.load_node(uuid)
    assert_same(loaded.get_frames(), labelled())
    assert loaded.base.caching.compute_hash() == content_hash
    assert orm.QueryBuilder().append(FramesData, filters={"attributes.n_structures": 3}).count()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an array at all", "cannot be read"),
        (npy(np.array([{}], object), allow_pickle=True), "only numbers and text"),
        (npy(np.zeros(4))[:-1], "damaged"),
    ],
)
def test_untrusted_arrays(content, message, tmp_path):
    """In a folder and in a repository; more of them in tests/engine/test_npy.py."""
    folder = labelled().save(tmp_path / "frames")
    (folder / "structure_energy.npy").write_bytes(content)
    with pytest.raises(InvalidFramesError, match=f"energy.*{message}"):
        FramesData.from_folder(folder)
    node = FramesData(labelled())
    node.base.repository.put_object_from_bytes(content, "structure_energy.npy")
    node.clear_internal_cache()
    with pytest.raises(InvalidFramesError, match=f"energy.*{message}"):
        node.get_frames()


def test_untrusted_folders(tmp_path):
    with pytest.raises(InvalidFramesError, match="not a folder"):
        FramesData.from_folder(tmp_path / "nothing")
    (tmp_path / "hollow").mkdir()
    with pytest.raises(InvalidFramesError, match="lack numbers"):
        FramesData.from_folder(tmp_path / "hollow")
    folder = labelled().save(tmp_path / "frames")
    (folder / "structure_bad name.npy").write_bytes(npy(np.zeros(3)))
    with pytest.raises(InvalidFramesError, match="no name for a label"):
        FramesData.from_folder(folder)
    (folder / "structure_bad name.npy").rename(folder / "foreign.npy")
    with pytest.raises(InvalidFramesError, match="no array of frames"):
        FramesData.from_folder(folder)
    (folder / "foreign.npy").unlink()
    (folder / "structure_link.npy").symlink_to(folder / "structure_energy.npy")
    with pytest.raises(InvalidFramesError, match="is a link"):
        FramesData.from_folder(folder)
