"""CIFs, alone and in a pool."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from aiida_rm.engine.errors import OutOfMemoryError
from aiida_rm.engine.reading import cif as cif_module
from aiida_rm.engine.reading.cif import parse_cif, resolved
from aiida_rm.engine.reading.entries import CifText, Entry, Item, Problem
from aiida_rm.engine.records import make_record

DISORDERED = """data_mix
_cell_length_a 4
_cell_length_b 4
_cell_length_c 4
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 Na 0 0 0 {occupancy}
K1 K {x} {x} {x} {occupancy}
"""


def salt(length: float = 5.64, symprec: float | None = None) -> str:
    """Rock salt as pymatgen writes it."""
    corners = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    places = [*corners, *(corners + 0.5) % 1]
    structure = Structure(Lattice.cubic(length), ["Na"] * 4 + ["Cl"] * 4, places)
    return str(CifWriter(structure, symprec=symprec))


def parse(text: str, stem: str = "") -> list[Entry | Problem]:
    return parse_cif(CifText("a.cif", "line 3", text, {"id": "x"}, stem))


def refusal(text: str) -> str:
    (found,) = parse(text)
    assert isinstance(found, Problem), found
    assert (found.file, found.where) == ("a.cif", "line 3")
    assert "\n" not in found.reason
    return found.reason


@pytest.mark.parametrize("symprec", [None, 0.01])
def test_a_crystal(symprec: float | None) -> None:
    (found,) = parse(salt(symprec=symprec))
    assert isinstance(found, Entry)
    record = found.record
    assert sorted(record.numbers) == [11] * 4 + [17] * 4
    assert record.names == {"id": "x"}
    assert record.pbc.all()
    assert np.linalg.det(record.cell) == pytest.approx(5.64**3)
    assert record.positions.max() == pytest.approx(2.82)


def test_blocks_of_one_name_are_all_read() -> None:
    found = parse(salt(5.5) + salt(5.7), stem="a")
    cells = [item.record.cell[0, 0] for item in found if isinstance(item, Entry)]
    assert cells == pytest.approx([5.5, 5.7])
    assert [item.where for item in found] == ["line 3, data block 0", "line 3, data block 1"]
    assert [item.record.names["name"] for item in found if isinstance(item, Entry)] == [
        "a-0",
        "a-1",
    ]


def test_a_broken_block_leaves_the_others() -> None:
    found = parse("data_empty\n_cell_length_a 3\n" + salt() + DISORDERED.format(occupancy=0.5, x=0))
    assert [type(item) for item in found] == [Entry, Problem]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no CIF"),
        ("this is no crystal\n", "no CIF of a crystal"),
        ("data_broken\nloop_\n_atom", "no CIF of a crystal"),
        (DISORDERED.format(occupancy=0.5, x=0), "is disordered"),
        (DISORDERED.format(occupancy=0.5, x=0.5), "is disordered"),
        (DISORDERED.format(occupancy=1.0, x=0), "no CIF of a crystal"),
        (DISORDERED.format(occupancy=1.0, x=0.5).replace("K1 K", "Qq1 Qq"), "not those of its"),
        (salt().replace("Na+", "Qq").replace("  Na  ", "  Qq  "), "not those of its formula"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    assert message in refusal(text)


def test_full_occupancies_are_fine() -> None:
    (found,) = parse(DISORDERED.format(occupancy=1.0, x=0.5))
    assert isinstance(found, Entry)


def test_truncated_anywhere_is_refused() -> None:
    text = salt()
    lines = text.splitlines(keepends=True)
    for keep in range(len(lines)):
        refusal("".join(lines[:keep]))


def mixture(count: int, taken: list[int]) -> Iterator[Item]:
    """CIFs of rising length, broken ones, and others that pass through."""
    text = salt()
    for index in range(count):
        taken.append(index)
        if index % 5 == 3:
            yield Problem("f", str(index), "bad")
        elif index % 5 == 4:
            record = make_record([1], [[0, 0, 0]], None, None, {})
            yield Entry("f", str(index), record)
        else:
            yield CifText("f", str(index), text if index % 7 else text[:300], {})


def outcome(items: Iterator[Entry | Problem]) -> list[tuple[type, str]]:
    return [(type(item), item.where) for item in items]


def test_a_pool_gives_the_same_in_order(monkeypatch) -> None:
    alone = outcome(resolved(mixture(60, []), 1))
    assert [where for _, where in alone] == [str(index) for index in range(60)]
    monkeypatch.setattr(cif_module, "ALONE", 4)
    monkeypatch.setattr(cif_module, "CHUNK", 3)
    taken: list[int] = []
    results = resolved(mixture(60, taken), 2)
    together = []
    for done, item in enumerate(results, start=1):
        together.append((type(item), item.where))
        # Bounded: what waits for two processes, and the piece at hand.
        assert len(taken) - done <= 3 * (4 * 2 + 2) + 1
    assert together == alone


def test_alone_nothing_is_taken_ahead() -> None:
    taken: list[int] = []
    results = resolved(mixture(10, taken), 1)
    for index in range(10):
        next(results)
        assert taken[-1] == index


def test_few_cifs_start_no_pool(monkeypatch) -> None:
    monkeypatch.delattr(cif_module, "process_pool")
    assert len(outcome(resolved(mixture(20, []), 2))) == 20


def die(items: object) -> object:
    import os

    os._exit(3)


def test_a_dead_process_is_told_of(monkeypatch) -> None:
    monkeypatch.setattr(cif_module, "ALONE", 1)
    monkeypatch.setattr(cif_module, "_parse_all", lambda items: items)
    results = resolved(mixture(200, []), 2)
    next(results)
    monkeypatch.setattr(cif_module, "_parse_all", die)
    with pytest.raises(OutOfMemoryError, match=r"processes died.*__main__"):
        list(results)
