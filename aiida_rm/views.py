"""Structures in notebooks: a view that turns where weas-widget is installed, else a picture.

>>> from aiida_rm.views import view
>>> view(frames, 3)  # the fourth structure of a FramesData
>>> view(best(frames).iloc[0])  # a row of a table of aiida_rm.queries

A FramesData that ends a cell shows what it holds, with its first structures.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

#: Structures whose pictures stand under the table of a set.
_DRAWN = 6
#: Formulas and labels that are listed.
_LISTED = 8

REMEDY = "`pip install weas-widget` and restart the notebook to turn it"


@dataclass(frozen=True)
class Picture:
    """What :func:`view` gives where no widget is installed: a picture, or in a terminal a line."""

    atoms: Any

    def __repr__(self) -> str:
        return f"{_line(self.atoms)}; {REMEDY}"

    def _repr_html_(self) -> str:
        return (
            f"{_image(self.atoms)}<br>{escape(_line(self.atoms))}<br>"
            f"<small>{escape(REMEDY)}</small>"
        )


def view(structure: Any, index: int = 0) -> Any:
    """A structure for the end of a notebook's cell.

    Args:
        structure: FramesData, Frames, StructureData, ``ase.Atoms``, or a row of a table of
            :mod:`aiida_rm.queries` (with ``pk`` and ``index``).
        index: which one of a set, from 0.

    Returns:
        ``weas_widget.WeasWidget`` (angstrom; atoms on the faces of a cell are shown on all of
        them), or a :class:`Picture` where it is not installed.

    Raises:
        IndexError: the set has no such structure.
        TypeError: this is no structure.
    """
    atoms = atoms_of(structure, index)
    try:
        from weas_widget import WeasWidget
    except ImportError:
        return Picture(atoms)
    widget = WeasWidget(from_ase=atoms)
    widget.avr.model_style = 1  # balls and sticks
    if atoms.pbc.all():
        widget.avr.boundary = [[-0.01, 1.01]] * 3
    return widget


def atoms_of(structure: Any, index: int = 0) -> Any:
    """The structure as ``ase.Atoms`` without labels; raises as :func:`view` does."""
    from aiida.orm import StructureData, load_node
    from ase import Atoms

    from aiida_rm.data.frames import FramesData
    from aiida_rm.engine.converters import to_ase
    from aiida_rm.engine.frames import Frames

    if hasattr(structure, "keys") and {"pk", "index"} <= set(structure.keys()):
        row = structure["index"]  # None, or NaN in a table, of a StructureData
        structure = load_node(int(structure["pk"]))
        index = 0 if row is None or row != row else int(row)  # noqa: PLR0124 - NaN is not itself
    if isinstance(structure, FramesData):
        structure = structure.get_frames()
    if isinstance(structure, Frames):
        if not 0 <= index < len(structure):
            last = len(structure) - 1
            raise IndexError(f"there is no structure {index}; the set holds 0..{last}")
        return to_ase(structure[index].without_labels(), 0)
    if isinstance(structure, StructureData):
        structure = structure.get_ase()
    if isinstance(structure, Atoms):
        return Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    raise TypeError(
        f"a {type(structure).__name__} is no structure; give a FramesData and an index, a "
        "StructureData, Atoms, or a row of a table of aiida_rm.queries"
    )


def summary_of(node: Any) -> str:
    """A FramesData as HTML: what it holds, and its first structures."""
    frames = node.get_frames()
    rows = {
        "structures": f"{len(frames)} ({node.pbc_kind})",
        "atoms": f"{node.n_atoms}, {_range('n_atoms', node)} each",
        "elements": ", ".join(node.elements),
        "formulas": _some([f"{name} ({count})" for name, count in node.formulas.items()]),
        "volume": f"{_range('volume_per_atom', node)} Å³ per atom",
        "labels": _some([*node.structure_labels, *node.atom_labels]),
    }
    if node.base.attributes.get("volume_per_atom_min") is None:
        del rows["volume"]
    name = f"FramesData {f'<{node.pk}>' if node.pk else '(not stored)'} {node.label}"
    lines = "".join(
        f"<tr><th style='text-align:left'>{what}</th>"
        f"<td style='text-align:left'>{escape(text)}</td></tr>"
        for what, text in rows.items()
        if text
    )
    drawn = "".join(
        f"<figure style='display:inline-block;margin:4px;text-align:center'>{_image(atoms)}"
        f"<figcaption>{i}: {escape(atoms.get_chemical_formula())}</figcaption></figure>"
        for i, atoms in ((i, atoms_of(frames, i)) for i in range(min(_DRAWN, len(frames))))
    )
    return f"<strong>{escape(name.strip())}</strong><table>{lines}</table>{drawn}"


def _image(atoms: Any) -> str:
    from aiida_rm.engine.converters import from_ase
    from aiida_rm.report.scene import thumbnail

    return f"<img alt='{escape(_line(atoms))}' src='{thumbnail(from_ase([atoms]))}'>"


def _line(atoms: Any) -> str:
    text = f"{atoms.get_chemical_formula()}, {len(atoms)} atoms"
    return f"{text}, {atoms.cell.volume:.1f} Å³" if atoms.pbc.all() else text


def _range(name: str, node: Any) -> str:
    low, high = (node.base.attributes.get(f"{name}_{end}") for end in ("min", "max"))
    shown = [f"{value:.4g}" if value is not None else "" for value in (low, high)]
    return shown[0] if shown[0] == shown[1] else " to ".join(shown)


def _some(names: list[str]) -> str:
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
