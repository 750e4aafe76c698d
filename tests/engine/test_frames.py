"""Frames: building, choosing, joining, checking, and their folder on disk."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aiida_rm.engine.cells import complete_cell
from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.frames import Frames, concatenate


def random_frames(seed: int, counts: list[int]) -> Frames:
    """Structures of these sizes, of every kind of pbc, with a label of every kind."""
    rng = np.random.default_rng(seed)
    size, total = len(counts), sum(counts)
    return Frames.build(
        [rng.integers(1, 119, count) for count in counts],
        [rng.normal(size=(count, 3)) * 5 for count in counts],
        cells=rng.normal(size=(size, 3, 3)) + 3 * np.eye(3),
        pbc=rng.random((size, 3)) < 0.5,
        structure={
            "energy": rng.normal(size=size),
            "index": np.arange(size),
            "status": np.arange(size, dtype=np.int8),
            "unique": rng.random(size) < 0.5,
            "name": np.array(["grün", "", "a" * 20])[np.arange(size) % 3],
            "stress": rng.normal(size=(size, 3, 3)).astype(np.float32),
        },
        atom={"force": rng.normal(size=(total, 3)), "coordination": np.arange(total) % 7},
    )


def same(one: Frames, two: Frames) -> None:
    first, second = one.to_arrays(), two.to_arrays()
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.dtype == second[name].dtype, name
        np.testing.assert_array_equal(array, second[name], err_msg=name)


SETS = st.builds(
    random_frames, st.integers(0, 10**6), st.lists(st.integers(0, 5), min_size=0, max_size=6)
)


@pytest.fixture
def frames() -> Frames:
    return random_frames(1, [2, 1, 3, 4])


class TestBuild:
    def test_molecules_and_crystals(self) -> None:
        molecules = Frames.build([[1, 1], [6]], [[[0, 0, 0], [0, 0, 0.7]], [[0, 0, 0]]])
        assert not molecules.pbc.any()
        assert molecules.cells.shape == (2, 3, 3)
        assert not molecules.cells.any()
        assert np.isnan(molecules.volumes).all()
        crystals = Frames.build([[6]], [[[0, 0, 0]]], cells=[np.diag([1.0, 2.0, -3.0])])
        assert crystals.pbc.all()
        assert crystals.volumes.tolist() == pytest.approx([6.0])

    def test_one_pbc_for_all(self) -> None:
        frames = Frames.build([[6], [6]], [[[0, 0, 0]]] * 2, [np.eye(3)] * 2, [True, True, False])
        assert frames.pbc.tolist() == [[True, True, False]] * 2
        assert np.isnan(frames.volumes).all()

    def test_types(self, frames: Frames) -> None:
        assert frames.numbers.dtype == np.uint8
        assert frames.positions.dtype == np.float64
        assert frames.cells.dtype == np.float64
        assert frames.pbc.dtype == bool
        assert frames.ptr.dtype == np.int64

    def test_nothing(self) -> None:
        empty = Frames.build([], [])
        assert len(empty) == 0
        assert empty.n_atoms == 0
        assert empty.formulas() == []
        assert empty.elements == ()

    def test_properties(self) -> None:
        frames = Frames.build([[8, 1, 1], [6, 1, 1, 1, 1]], [np.zeros((3, 3)), np.zeros((5, 3))])
        assert frames.formulas() == ["H2O", "CH4"]
        assert frames.elements == ("H", "C", "O")
        assert frames.counts.tolist() == [3, 5]
        assert frames.batch.tolist() == [0] * 3 + [1] * 5
        assert frames.n_atoms == 8

    @pytest.mark.parametrize("number", [-1, 119, 300])
    def test_numbers_out_of_range(self, number: int) -> None:
        with pytest.raises(FramesError, match="atomic numbers must lie in"):
            Frames.build([[number]], [[[0, 0, 0]]])

    def test_counts_that_differ(self) -> None:
        with pytest.raises(FramesError, match="2 sets of numbers but 1"):
            Frames.build([[6], [6]], [[[0, 0, 0]]])
        with pytest.raises(FramesError, match="positions must be"):
            Frames.build([[6, 6]], [[[0, 0, 0]]])

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ({"structure": {"energy": [1.0]}}, "'energy' must have 2 rows"),
            ({"structure": {"energy": 1.0}}, "'energy' must have 2 rows"),
            ({"atom": {"force": np.zeros((2, 3))}}, "'force' must have 3 rows"),
            ({"structure": {"bad-name": [1, 2]}}, "'bad-name' is no name for a label"),
            ({"structure": {"../x": [1, 2]}}, "is no name for a label"),
            ({"structure": {"x\n": [1, 2]}}, "is no name for a label"),
            ({"structure": {"": [1, 2]}}, "is no name for a label"),
            ({"structure": {"thing": np.array([None, {}], object)}}, "numbers or text"),
            ({"structure": {"raw": np.array([b"a", b"b"])}}, "numbers or text"),
            ({"structure": {"wave": np.array([1j, 2j])}}, "numbers or text"),
        ],
    )
    def test_bad_labels(self, labels: dict, message: str) -> None:
        with pytest.raises(FramesError, match=message):
            Frames.build([[6], [6, 6]], [np.zeros((1, 3)), np.zeros((2, 3))], **labels)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"ptr": np.array([0, 1, 2])}, "ptr must rise"),
            ({"ptr": np.array([1, 2, 3])}, "ptr must rise"),
            ({"ptr": np.array([0, 4, 3])}, "ptr must rise"),
            ({"ptr": np.array([0, 4, 3], np.uint64)}, "ptr must rise"),
            ({"ptr": np.array([0.0, 1.0, 3.0])}, "ptr must be"),
            ({"ptr": np.zeros(0, int)}, "ptr must be"),
            ({"numbers": np.zeros(3, int)}, "numbers must be"),
            ({"numbers": np.zeros((3, 1), np.uint8)}, "numbers must be"),
            ({"positions": np.zeros((3, 2))}, "positions must be"),
            ({"positions": np.zeros((3, 3), int)}, "positions must be"),
            ({"cells": np.zeros((1, 3, 3))}, "cells must be"),
            ({"pbc": np.zeros((2, 3), int)}, "pbc must be"),
            ({"pbc": [[True] * 3] * 2}, "'pbc' is not an array"),
        ],
    )
    def test_wrong_shapes(self, change: dict, message: str) -> None:
        arrays = Frames.build([[6], [6, 6]], [np.zeros((1, 3)), np.zeros((2, 3))]).to_arrays()
        with pytest.raises(FramesError, match=message):
            Frames.from_arrays({**arrays, **change})


class TestSelect:
    @given(SETS, st.data())
    @hypothesis_settings(max_examples=30, deadline=None)
    def test_select_takes_the_right_rows(self, frames: Frames, data: st.DataObject) -> None:
        limit = max(len(frames) - 1, 0)
        chosen = data.draw(st.lists(st.integers(0, limit), max_size=8 if len(frames) else 0))
        part = frames.select(np.array(chosen, int))
        assert len(part) == len(chosen)
        for new, old in enumerate(chosen):
            ours = slice(part.ptr[new], part.ptr[new + 1])
            theirs = slice(frames.ptr[old], frames.ptr[old + 1])
            np.testing.assert_array_equal(part.positions[ours], frames.positions[theirs])
            np.testing.assert_array_equal(part.numbers[ours], frames.numbers[theirs])
            np.testing.assert_array_equal(part.atom["force"][ours], frames.atom["force"][theirs])
            np.testing.assert_array_equal(part.cells[new], frames.cells[old])
            np.testing.assert_array_equal(part.pbc[new], frames.pbc[old])
            assert part.structure["name"][new] == frames.structure["name"][old]

    def test_mask_is_like_indices(self, frames: Frames) -> None:
        mask = np.array([True, False, False, True])
        same(frames.select(mask), frames.select([0, 3]))
        same(frames.select(np.zeros(4, bool)), frames.select([]))

    def test_item(self, frames: Frames) -> None:
        same(frames[2], frames.select([2]))

    def test_select_copies(self, frames: Frames) -> None:
        part = frames.select([0])
        part.positions[:] = 7.0
        assert not np.any(frames.positions == 7.0)

    @pytest.mark.parametrize("index", [-1, 4])
    def test_out_of_range(self, frames: Frames, index: int) -> None:
        with pytest.raises(FramesError, match=rf"structure {index} does not exist.* 0\.\.3"):
            frames.select([0, index])

    def test_mask_of_another_length(self, frames: Frames) -> None:
        with pytest.raises(FramesError, match="for 4 structures"):
            frames.select(np.ones(3, bool))

    def test_fractions_are_no_indices(self, frames: Frames) -> None:
        with pytest.raises(FramesError, match="whole numbers"):
            frames.select([0.5])


class TestJoin:
    @given(SETS, st.integers(0, 6))
    @hypothesis_settings(max_examples=30, deadline=None)
    def test_cut_and_joined_is_the_same(self, frames: Frames, cut: int) -> None:
        everything = np.arange(len(frames))
        same(
            concatenate([frames.select(everything[:cut]), frames.select(everything[cut:])]), frames
        )

    def test_only_shared_labels_stay(self, frames: Frames) -> None:
        joined = concatenate([frames, frames.without_labels().with_labels({"index": [0, 1, 2, 3]})])
        assert list(joined.structure) == ["index"]
        assert not joined.atom
        assert len(joined) == 8

    def test_longer_names_are_not_cut(self) -> None:
        one = Frames.build([[6]], [[[0, 0, 0]]], structure={"name": ["a"]})
        two = Frames.build([[6]], [[[0, 0, 0]]], structure={"name": ["longer"]})
        assert concatenate([one, two]).structure["name"].tolist() == ["a", "longer"]

    def test_labels_that_do_not_fit(self) -> None:
        one = Frames.build([[6]], [[[0, 0, 0]]], structure={"rdf": np.zeros((1, 3))})
        two = Frames.build([[6]], [[[0, 0, 0]]], structure={"rdf": np.zeros((1, 4))})
        with pytest.raises(FramesError, match="'rdf' differs in shape"):
            concatenate([one, two])

    def test_nothing(self) -> None:
        with pytest.raises(FramesError, match="nothing to join"):
            concatenate([])


class TestLabels:
    def test_with_and_without(self, frames: Frames) -> None:
        more = frames.with_labels({"energy": [0.0] * 4}, {"charge": np.zeros(10)})
        assert more.structure["energy"].tolist() == [0.0] * 4
        assert "charge" not in frames.atom
        assert frames.structure["energy"].any()
        assert not more.without_labels().structure
        with pytest.raises(FramesError, match="must have 4 rows"):
            frames.with_labels({"energy": [0.0]})


class TestFolder:
    @given(SETS, st.booleans())
    @hypothesis_settings(
        max_examples=30,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def test_round_trip(self, tmp_path, frames: Frames, mmap: bool) -> None:
        folder = frames.save(tmp_path / "set")
        assert [item.name for item in tmp_path.iterdir()] == ["set"]
        same(Frames.load(folder, mmap=mmap), frames)

    def test_mapped_arrays_are_read_only(self, frames: Frames, tmp_path) -> None:
        loaded = Frames.load(frames.save(tmp_path / "set"))
        assert not loaded.positions.flags.writeable
        same(loaded.select([1, 0]), frames.select([1, 0]))

    def test_bytes_are_reproducible(self, frames: Frames, tmp_path) -> None:
        one, two = frames.save(tmp_path / "one"), frames.select(range(4)).save(tmp_path / "two")
        files = sorted(file.name for file in one.iterdir())
        assert files == sorted(file.name for file in two.iterdir())
        for name in files:
            assert (one / name).read_bytes() == (two / name).read_bytes()

    def test_saving_again_replaces(self, frames: Frames, tmp_path) -> None:
        folder = frames.save(tmp_path / "set")
        same(Frames.load(frames.without_labels().save(folder)), frames.without_labels())

    def test_saving_onto_itself(self, frames: Frames, tmp_path) -> None:
        folder = frames.save(tmp_path / "set")
        same(Frames.load(Frames.load(folder).save(folder)), frames)

    @pytest.mark.parametrize("name", ["numbers", "positions", "cells", "pbc", "ptr"])
    def test_missing_file(self, frames: Frames, tmp_path, name: str) -> None:
        folder = frames.save(tmp_path / "set")
        (folder / f"{name}.npy").unlink()
        with pytest.raises(FramesError, match=rf"lack {name}\.npy"):
            Frames.load(folder)

    @pytest.mark.parametrize("keep", [0, 5, 60, 128, -8])
    @pytest.mark.parametrize("mmap", [True, False])
    def test_truncated_file(self, frames: Frames, tmp_path, keep: int, mmap: bool) -> None:
        file = frames.save(tmp_path / "set") / "positions.npy"
        file.write_bytes(file.read_bytes()[:keep])
        with pytest.raises(FramesError, match=r"'positions\.npy' cannot be read"):
            Frames.load(file.parent, mmap=mmap)

    @pytest.mark.parametrize("mmap", [True, False])
    def test_pickles_are_refused(self, frames: Frames, tmp_path, mmap: bool) -> None:
        folder = frames.save(tmp_path / "set")
        np.save(folder / "structure_name.npy", np.array([{}] * 4, object), allow_pickle=True)
        with pytest.raises(FramesError, match=r"'structure_name\.npy' cannot be read"):
            Frames.load(folder, mmap=mmap)

    @pytest.mark.parametrize("mmap", [True, False])
    @pytest.mark.parametrize("content", [b"not an array", b"PK\x03\x04 zip", b"\x80\x04K\x01."])
    def test_foreign_content(self, frames: Frames, tmp_path, mmap: bool, content: bytes) -> None:
        folder = frames.save(tmp_path / "set")
        (folder / "cells.npy").write_bytes(content)
        with pytest.raises(FramesError, match=r"'cells\.npy' cannot be read"):
            Frames.load(folder, mmap=mmap)

    def test_an_archive_is_no_array(self, frames: Frames, tmp_path) -> None:
        folder = frames.save(tmp_path / "set")
        np.savez(folder / "other.npz", a=np.zeros(3))
        (folder / "other.npz").replace(folder / "cells.npy")
        with pytest.raises(FramesError, match="cells"):
            Frames.load(folder)

    def test_structured_arrays_are_refused(self, frames: Frames, tmp_path) -> None:
        folder = frames.save(tmp_path / "set")
        np.save(folder / "structure_odd.npy", np.zeros(4, [("a", int)]))
        with pytest.raises(FramesError, match=r"'structure_odd\.npy' cannot .* numbers or text"):
            Frames.load(folder)

    def test_unknown_array(self, frames: Frames, tmp_path) -> None:
        folder = frames.save(tmp_path / "set")
        np.save(folder / "velocities.npy", np.zeros((10, 3)))
        with pytest.raises(FramesError, match=r"'velocities\.npy' is no array of frames"):
            Frames.load(folder)

    def test_links_are_refused(self, frames: Frames, tmp_path) -> None:
        folder = frames.save(tmp_path / "set")
        (folder / "cells.npy").replace(tmp_path / "elsewhere.npy")
        (folder / "cells.npy").symlink_to(tmp_path / "elsewhere.npy")
        with pytest.raises(FramesError, match=r"'cells\.npy' is a link"):
            Frames.load(folder)

    def test_no_folder(self, tmp_path) -> None:
        (tmp_path / "file").write_text("x")
        for name in ("absent", "file"):
            with pytest.raises(FramesError, match=f"'{name}' is not a folder of frames"):
                Frames.load(tmp_path / name)


class TestCheck:
    def test_good_ones_pass(self, frames: Frames) -> None:
        frames.check()
        Frames.build([[6]], [[[0, 0, 0]]]).check(min_distance=5.0)
        chain = Frames.build([[6]], [[[0, 0, 0]]], [[[1.3, 0, 0], [0, 0, 0], [0, 0, 0]]], [1, 0, 0])
        chain.check(min_distance=1.2)

    @pytest.mark.parametrize(
        ("frames", "message"),
        [
            (Frames.build([], []), "there are no structures"),
            (
                Frames.build([[6], []], [np.zeros((1, 3)), np.zeros((0, 3))]),
                "structure 1 has no at",
            ),
            (
                Frames.build([[6], [6, 0]], [np.zeros((1, 3)), np.eye(3)[:2]]),
                "structure 1 holds ato",
            ),
            (
                Frames.build([[6], [6]], [[[0, 0, 0]], [[0, np.nan, 0]]]),
                "structure 1 has a position",
            ),
            (
                Frames.build([[6], [6]], [[[0, 0, 0]], [[0, np.inf, 0]]]),
                "structure 1 has a position",
            ),
            (
                Frames.build([[6]] * 2, [[[0, 0, 0]]] * 2, [np.eye(3), np.full((3, 3), np.nan)]),
                "structure 1 has a cell that is not finite",
            ),
            (
                Frames.build([[6]] * 2, [[[0, 0, 0]]] * 2, [np.eye(3), np.zeros((3, 3))]),
                "structure 1 is periodic but its cell is missing or flat.*switch pbc off",
            ),
            (
                Frames.build([[6]], [[[0, 0, 0]]], [[[3, 0, 0], [6, 0, 0], [0, 0, 3]]]),
                "structure 0 is periodic but its cell",
            ),
            (
                Frames.build([[6]], [[[0, 0, 0]]], [[[3, 0, 0], [6, 0, 0], [0, 0, 3]]], [1, 1, 0]),
                "structure 0 is periodic but its cell",
            ),
            (
                Frames.build([[6]], [[[0, 0, 0]]], [np.zeros((3, 3))], [1, 0, 0]),
                "structure 0 is periodic but its cell",
            ),
        ],
    )
    def test_bad_ones_are_named(self, frames: Frames, message: str) -> None:
        with pytest.raises(FramesError, match=message):
            frames.check()

    def test_overlap_is_named(self) -> None:
        frames = Frames.build([[6], [6, 1]], [np.zeros((1, 3)), [[0, 0, 0], [0.3, 0, 0]]])
        frames.check()
        with pytest.raises(FramesError, match=r"structure 1 \(CH\) has two atoms 0\.300 A apart"):
            frames.check(min_distance=0.5)

    def test_own_images_overlap(self) -> None:
        thin = Frames.build([[6]], [[[0, 0, 0]]], [np.diag([0.4, 5.0, 5.0])])
        with pytest.raises(FramesError, match=r"0\.400 A apart, nearer than 0\.5 A"):
            thin.check(min_distance=0.5)


class TestMinimumDistance:
    @given(
        st.integers(0, 10**6),
        st.integers(1, 5),
        st.tuples(st.booleans(), st.booleans(), st.booleans()),
    )
    @hypothesis_settings(max_examples=60, deadline=None)
    def test_against_ase(self, seed: int, count: int, pbc: tuple[bool, bool, bool]) -> None:
        rng = np.random.default_rng(seed)
        cell = np.diag(rng.uniform(2.0, 4.0, 3)) + rng.uniform(-2.5, 2.5, (3, 3))
        if abs(np.linalg.det(cell)) < 3.0:
            cell = np.diag(rng.uniform(2.0, 4.0, 3))
        atoms = Atoms("C" * count, rng.uniform(-2, 3, (count, 3)) @ cell, cell=cell, pbc=pbc)
        frames = Frames.build([[6] * count], [atoms.positions], [cell], [pbc])
        found = frames.minimum_distance(0)
        expected = neighbor_list("d", atoms, 12.0).min(initial=np.inf)
        if np.isfinite(expected):
            assert found == pytest.approx(expected, abs=1e-9)
        assert frames.minimum_distance(0, 1.0) == pytest.approx(found) or found >= 1.0

    def test_the_shortest_image_need_not_be_an_edge(self) -> None:
        # a and b are long, their difference is short.
        cell = np.array([[5.0, 0, 0], [5.2, 0.8, 0], [0, 0, 6.0]])
        frames = Frames.build([[6]], [[[0.1, 0.2, 0.3]]], [cell])
        assert frames.minimum_distance(0) == pytest.approx(np.hypot(0.2, 0.8))

    def test_lone_atom(self) -> None:
        assert np.isinf(Frames.build([[6]], [[[0, 0, 0]]]).minimum_distance(0))

    def test_second_structure(self) -> None:
        frames = Frames.build([[6], [6, 6]], [np.zeros((1, 3)), [[0, 0, 0], [0, 3.0, 4.0]]])
        assert frames.minimum_distance(1) == pytest.approx(5.0)


class TestCompleteCell:
    @given(st.integers(0, 10**6), st.tuples(st.booleans(), st.booleans(), st.booleans()))
    def test_new_vectors_are_normal(self, seed: int, pbc: tuple[bool, bool, bool]) -> None:
        cell = np.random.default_rng(seed).normal(size=(3, 3))
        full = complete_cell(cell, np.array(pbc))
        np.testing.assert_array_equal(full[list(pbc)], cell[list(pbc)])
        for axis in np.flatnonzero(~np.array(pbc)):
            assert np.linalg.norm(full[axis]) == pytest.approx(1.0)
            others = [other for other in range(3) if other != axis]
            np.testing.assert_allclose(full[others] @ full[axis], 0, atol=1e-9)

    def test_flat_cells_do_not_crash(self) -> None:
        cell = np.array([[3.0, 0, 0], [6.0, 0, 0], [0, 0, 3.0]])
        assert np.isfinite(complete_cell(cell, np.array([True, True, False]))).all()
