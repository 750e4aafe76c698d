"""What random starts need to know of a training set; it travels in the potential's header.

All of it is about the stable structures. A perturbed set carries them in the labels ``home``,
``home_cell`` and ``home_atoms``, each once for every copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from aiida_rm.engine.cells import image_shifts, near_squares
from aiida_rm.engine.elements import RADII, SYMBOLS
from aiida_rm.engine.formulas import count_formulas, element_table
from aiida_rm.engine.frames import Array, Frames

#: Formulas and numbers of atoms that are kept, the most frequent ones: the header stays small.
MAX_FORMULAS, MAX_SIZES = 2000, 200
#: Fewer stable structures than this do not tell where a training set ends, fewer atoms of an
#: element not what these differ by.
_ENOUGH_STRUCTURES, _ENOUGH_ATOMS = 100, 4
#: Pairs are looked for up to here, in angstrom.
_REACH = 5.0
#: Share of the structures that may hold a pair nearer than its learnt distance.
_QUANTILE = 0.05
#: Structures whose distances are looked at, evenly taken from all; atoms of one at once.
_MOST, _BLOCK = 50_000, 100
#: Added to the extents of a molecule, or a flat one would have no volume; about a bond.
_MARGIN = 1.5


def describe_training_set(frames: Frames, *, distances: bool = True) -> dict[str, Any]:
    """What is typical of the stable structures of a training set, in plain values.

    Args:
        frames: stable structures, or perturbed ones with their targets.
        distances: look for pairs, too; this takes a minute for 100,000 crystals.

    Returns:
        At most about 150 kB as JSON (100 elements):
        ``n_structures``;
        ``composition`` mean share of each element;
        ``elemental_volumes`` cubic angstrom an atom of each element, by least squares, and
        ``volume_spread`` half the range of the middle 68 % of log(volume / fit) (no molecules);
        ``pair_distances`` angstrom, by pairs such as ``C O``: 5 % of the structures with such a
        pair within 5 A have a nearer one; ``distance_ratio`` their median over the sum of the
        covalent radii;
        ``formulas``, ``n_atoms``, ``n_elements`` and how many structures have them;
        ``elemental_boxes`` cubic angstrom of the box that an atom of each element adds to,
        ``box_spread`` as above, and ``box_shape`` its edges over the cube root of its volume,
        longest first (molecules).
    """
    stable, volumes, sizes = stable_structures(frames)
    numbers, table = element_table(stable)
    symbols = [SYMBOLS[z] for z in numbers]
    counts = table.sum(1)
    shares = (table / counts[:, None]).mean(0)
    known = np.isfinite(volumes)
    elemental, spread = _per_element(table[known], volumes[known])
    found: dict[str, Any] = {
        "n_structures": len(stable),
        "composition": {s: float(x) for s, x in zip(symbols, shares, strict=True)},
        "elemental_volumes": _table(symbols, elemental),
        "formulas": _most(_formulas(stable, sizes), MAX_FORMULAS),
        "n_atoms": _most(Counter(str(n) for n in sizes.tolist()), MAX_SIZES),
        "n_elements": _most(Counter(str(n) for n in (table > 0).sum(1).tolist()), MAX_SIZES),
    }
    if known.any():
        found["volume_spread"] = round(spread, 4)
    if "force" in frames.atom and "home" not in frames.atom:
        return found  # a perturbed set of an earlier version: its distances are not known
    if distances:
        found |= _pair_distances(stable)
    molecules = np.flatnonzero(~stable.pbc.any(axis=1))
    if len(molecules):
        edges = molecule_boxes(stable.select(molecules))
        boxes = edges.prod(1)
        elemental, spread = _per_element(table[molecules], boxes)
        shape = np.exp(np.log(edges / np.cbrt(boxes)[:, None]).mean(0))
        found["elemental_boxes"] = _table(symbols, elemental)
        found["box_spread"] = round(spread, 4)
        found["box_shape"] = [round(float(edge), 4) for edge in shape / np.cbrt(shape.prod())]
    return found


def molecule_boxes(frames: Frames) -> Array:
    """(S, 3) edges of molecules' boxes along their principal axes, longest first, with a margin."""
    begin = frames.ptr[:-1]
    centres = np.add.reduceat(frames.positions, begin) / frames.counts[:, None]
    away = frames.positions - centres[frames.batch]
    moments = np.add.reduceat(away[:, :, None] * away[:, None, :], begin)
    axes = np.linalg.eigh(moments)[1]
    along = np.einsum("ai,aij->aj", away, axes[frames.batch])
    extents = np.maximum.reduceat(along, begin) - np.minimum.reduceat(along, begin)
    return np.asarray(np.sort(extents, axis=1)[:, ::-1] + _MARGIN)


def stable_structures(frames: Frames) -> tuple[Frames, Array, Array]:
    """The stable structures, their volumes, and the numbers of atoms before they were repeated.

    Of a perturbed set without homes (earlier versions), the structures are perturbed ones.
    """
    if "force" not in frames.atom:
        return frames, frames.volumes, frames.counts
    if "parent" in frames.structure:
        frames = frames.select(np.unique(frames.structure["parent"], return_index=True)[1])
    volumes = np.asarray(frames.structure.get("reference_volume", frames.volumes))
    if "home" in frames.atom:
        sizes = np.asarray(frames.structure["home_atoms"])
        home, cells = np.asarray(frames.atom["home"]), np.asarray(frames.structure["home_cell"])
        return Frames(frames.numbers, home, cells, frames.pbc, frames.ptr), volumes, sizes
    return frames, volumes, frames.counts


def _formulas(stable: Frames, sizes: Array) -> Counter[str]:
    """Formulas of the cells as they were before they were repeated."""
    times = stable.counts // sizes
    if (times == 1).all():
        return count_formulas(stable)
    # Atoms of like elements stand together, so that every n-th makes one cell.
    order = np.lexsort((stable.numbers, stable.batch))
    rank = np.arange(stable.n_atoms) - stable.ptr[stable.batch]
    chosen = order[rank % times[stable.batch] == 0]
    ptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    part = Frames(stable.numbers[chosen], stable.positions[chosen], stable.cells, stable.pbc, ptr)
    return count_formulas(part)


def _per_element(table: Array, values: Array) -> tuple[Array, float]:
    """Shares of the elements in values (S,) by least squares, and the spread of the rest.

    Returns:
        (E,) values, all positive; and half the range of the middle 68 % of log(value / fit), the
        standard deviation of a normal distribution to which a few odd structures do not count.
        Without values, empty and 0.
    """
    if not len(values):
        return np.zeros(0), 0.0
    mean = float((values / table.sum(1)).mean())
    # A faint pull towards the mean keeps rare elements positive.
    pull = 1e-3 * np.sqrt(len(values))
    rows = np.concatenate([table, pull * np.eye(table.shape[1])])
    wanted = np.concatenate([values, np.full(table.shape[1], pull * mean)])
    fit = np.maximum(np.linalg.lstsq(rows, wanted, rcond=None)[0], 0.1 * mean)
    low, high = np.quantile(np.log(values / (table @ fit)), [0.16, 0.84])
    return fit, float(high - low) / 2


def _pair_distances(stable: Frames) -> dict[str, Any]:
    """``pair_distances`` and ``distance_ratio``; nothing where no two atoms are near."""
    found: dict[tuple[int, int], list[float]] = {}
    for row in np.linspace(0, len(stable) - 1, min(len(stable), _MOST)).astype(np.int64):
        atoms = slice(stable.ptr[row], stable.ptr[row + 1])
        kinds, which = np.unique(stable.numbers[atoms], return_inverse=True)
        lengths = _nearest_pairs(
            stable.positions[atoms], stable.cells[row], bool(stable.pbc[row].all()), which
        )
        for i, j in np.argwhere(np.triu(lengths < _REACH)):
            found.setdefault((int(kinds[i]), int(kinds[j])), []).append(float(lengths[i, j]))
    if not found:
        return {}
    low = {pair: np.quantile(found[pair], _QUANTILE, method="lower") for pair in sorted(found)}
    ratios = [length / (RADII[a] + RADII[b]) for (a, b), length in low.items()]
    return {
        "pair_distances": {
            f"{SYMBOLS[a]} {SYMBOLS[b]}": round(float(length), 3) for (a, b), length in low.items()
        },
        "distance_ratio": round(float(np.median(ratios)), 4),
    }


def _nearest_pairs(positions: Array, cell: Array, periodic: bool, which: Array) -> Array:
    """(K, K) shortest distances between the kinds of atoms of one structure, up to the reach."""
    shifts = image_shifts(cell, _REACH) if periodic else np.zeros((1, 3))
    places, frame = (positions @ np.linalg.inv(cell), cell) if periodic else (positions, np.eye(3))
    table = np.full((which.max() + 1,) * 2, np.inf)
    images = ((shifts @ frame) ** 2).sum(-1)
    alone = images[images > 0].min(initial=np.inf)
    # Row by row in blocks, so that large structures fit into memory.
    for begin in range(0, len(places), _BLOCK):
        rows = np.arange(begin, min(begin + _BLOCK, len(places)))
        squares = near_squares(places[rows], places, frame, shifts, periodic=periodic)
        squares[np.arange(len(rows)), rows] = alone
        np.minimum.at(table, (which[rows][:, None], which[None]), squares)
    return np.sqrt(table)


def _table(symbols: list[str], values: Array) -> dict[str, float]:
    return {s: float(v) for s, v in zip(symbols, values, strict=True)} if len(values) else {}


def _most(counts: Mapping[str, int], limit: int) -> dict[str, int]:
    """The most frequent ones; among equals the first by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit])


def enough_to_remember(stable: Frames, count: int) -> bool:
    """Whether so many atoms (knob 'environments') of stable structures tell where these end."""
    return len(stable) >= _ENOUGH_STRUCTURES and count >= _ENOUGH_ATOMS * len(stable.elements)
