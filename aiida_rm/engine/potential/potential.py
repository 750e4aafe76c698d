"""The potential: a network plus the repulsive core, its forces and stress, and its file."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from aiida_rm.engine.checksum import NAME, check_seal, seal
from aiida_rm.engine.elements import MAX_NUMBER, NUMBERS, RADII, SYMBOLS
from aiida_rm.engine.errors import DiskError, PotentialError, SettingsError, brief
from aiida_rm.engine.files import SCHEMA_VERSION
from aiida_rm.engine.neighbors import Graph
from aiida_rm.engine.potential.core import core_energy, core_radii, largest_core, visibility
from aiida_rm.engine.potential.environments import Environments
from aiida_rm.engine.potential.equivariant import EquivariantHyperparameters, EquivariantNetwork
from aiida_rm.engine.potential.local import LocalHyperparameters, LocalNetwork
from aiida_rm.engine.potential.radial import lengths, squares
from aiida_rm.engine.potential.tables import Tables
from aiida_rm.engine.settings import PerturbSettings, TrainSettings, parse_settings

Hyperparameters = LocalHyperparameters | EquivariantHyperparameters
Network = LocalNetwork | EquivariantNetwork
#: Hyperparameters of each architecture, by the name that settings and files give it.
_SHAPES: dict[str, type[Hyperparameters]] = {
    "local": LocalHyperparameters,
    "equivariant": EquivariantHyperparameters,
}


@dataclass(frozen=True)
class Prediction:
    """E~ and its derivatives for S structures and A atoms.

    Attributes:
        energy: (S,) E~.
        forces: (A, 3) -dE~/dx.
        stress: (S, 3, 3) dE~/dstrain over the volume; zero where there is no cell.
        atom_energy: (A,) each atom's share of E~.
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor
    atom_energy: Tensor


class Potential(nn.Module):
    """E~ = sum of the network's atomic energies + core repulsion + a constant per element.

    The constants are a gauge (training never sees energies): they put the stable structures
    of the training set at about zero.
    """

    element_energy: Tensor

    def __init__(self, shape: Hyperparameters, core_scale: float, core_strength: float) -> None:
        super().__init__()
        self.network: Network = (
            LocalNetwork(shape)
            if isinstance(shape, LocalHyperparameters)
            else EquivariantNetwork(shape)
        )
        self.core_scale = core_scale
        self.core_strength = core_strength
        self.register_buffer("element_energy", torch.zeros(MAX_NUMBER + 1))
        self.tables = Tables(radii=RADII)
        self.elements: tuple[str, ...] = ()
        #: Of the training set; None: too few stable structures, or none were asked for.
        self.environments: Environments | None = None
        self.notes: dict[str, Any] = {}

    @property
    def cutoff(self) -> float:
        """Angstrom; nothing further away is felt."""
        numbers = np.array([NUMBERS[symbol] for symbol in self.elements] or [1])
        return max(self.network.shape.cutoff, largest_core(numbers, self.core_scale))

    @property
    def architecture(self) -> str:
        """Name of the kind of network."""
        return next(name for name, kind in _SHAPES.items() if isinstance(self.network.shape, kind))

    @property
    def n_parameters(self) -> int:
        """Numbers that training changes."""
        return self.network.n_parameters

    def atom_energies(self, vectors: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """(A,) energies and (A, H) the last hidden layer, from edge vectors (E, 3) of a graph."""
        radii, seen = self._pairs(vectors, graph)
        network, hidden = self.network(
            vectors, graph.edge_index, graph.numbers, seen, even=graph.even
        )
        pairs = core_energy(squares(vectors), radii, self.core_strength)
        repulsion = torch.zeros_like(network).index_add(0, graph.edge_index[0], 0.5 * pairs)
        return network + repulsion + self.element_energy.index_select(0, graph.numbers), hidden

    def visible(self, graph: Graph) -> Tensor:
        """(E,) how far the network sees each pair."""
        return self._pairs(graph.edge_vectors(), graph)[1]

    def _pairs(self, vectors: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Core radius of each pair (E,), and how far the network sees it (E,)."""
        covalent = self.tables["radii"]
        radii = core_radii(graph.numbers, graph.edge_index, self.core_scale, covalent)
        return radii, visibility(lengths(vectors), radii)

    def forward(self, graph: Graph, *, create_graph: bool = False) -> Prediction:
        """E~, forces and stress; ``create_graph`` keeps what a loss on them needs."""
        vectors = graph.edge_vectors().detach().requires_grad_(True)
        with torch.enable_grad():
            atoms, _ = self.atom_energies(vectors, graph)
            (slope,) = torch.autograd.grad(atoms.sum(), vectors, create_graph=create_graph)
        if not create_graph:
            vectors, atoms = vectors.detach(), atoms.detach()
        return predict(graph, vectors, atoms, slope)

    @torch.no_grad()
    def energies(self, graph: Graph) -> Tensor:
        """(S,) E~ alone, for half of what the derivatives cost besides."""
        atoms, _ = self.atom_energies(graph.edge_vectors(), graph)
        return atoms.new_zeros(graph.n_structures).index_add(0, graph.batch, atoms)

    @torch.no_grad()
    def hidden(self, graph: Graph) -> Tensor:
        """(A, H) the last hidden layer of each atom."""
        return self.atom_energies(graph.edge_vectors(), graph)[1]

    @torch.no_grad()
    def energies_and_distances(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """(S,) E~, and (S,) the sum of the atoms' latent distances (potential/environments.py).

        Raises:
            PotentialError: it knows no environments.
        """
        if self.environments is None:
            raise PotentialError(
                "the potential holds no environments of its training set; train it with "
                "'environments' above 0, on a hundred stable structures or more"
            )
        atoms, hidden = self.atom_energies(graph.edge_vectors(), graph)
        apart = self.environments.distances(hidden, graph.numbers)
        both = atoms.new_zeros(2, graph.n_structures)
        both = both.index_add(1, graph.batch, torch.stack([atoms, apart]))
        return both[0], both[1]

    def header(self) -> dict[str, Any]:
        """What the file says of itself; only plain values, nothing of time or place."""
        return {
            "schema": SCHEMA_VERSION,
            "kind": "potential",
            "architecture": self.architecture,
            "elements": list(self.elements),
            "cutoff": self.network.shape.cutoff,
            "n_parameters": self.n_parameters,
            "dtype": str(self.element_energy.dtype).removeprefix("torch."),
            "hyperparameters": self.network.shape.to_plain(),
            "core": {"scale": self.core_scale, "strength": self.core_strength},
            **self.notes,
        }

    def require_elements(self, symbols: set[str]) -> None:
        """Refuse elements that the training set did not hold.

        Raises:
            PotentialError: with both lists.
        """
        unknown = sorted(symbols - set(self.elements))
        if unknown:
            raise PotentialError(
                f"the potential never saw {', '.join(unknown)}; it was trained on "
                f"{', '.join(self.elements)}. Ask for those, or train with structures that "
                f"hold {', '.join(unknown)}"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights and header; the file appears under its name only when whole."""
        tensors = self.state_dict()
        if self.environments is not None:
            tensors |= self.environments.tensors()
        tensors = {name: value.detach().cpu() for name, value in tensors.items()}
        write_safetensors(path, tensors, self.header())

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> Potential:
        """Read a file that :meth:`save` wrote.

        Raises:
            PotentialError: it is missing, damaged, foreign, or of a newer version.
        """
        tensors, header = read_safetensors(path, "potential")
        try:
            environments = Environments.taken_from(tensors)
            shape, core = _shape_of(header, len(tensors)), _core_of(header)
            with torch.device("meta"):
                _check_sizes(cls(shape, *core), tensors)
            potential = cls(shape, *core)
            elements = tuple(_list_of(header, "elements"))
            own = set(potential.header()) | {"training"}
            potential.elements = elements
            potential.notes = {k: v for k, v in header.items() if k not in own or k == "training"}
            potential.environments = environments
            potential.to(tensors["element_energy"].dtype)
            potential.load_state_dict(tensors)
        except (KeyError, TypeError, ValueError, RuntimeError, SettingsError) as error:
            raise PotentialError(
                f"'{Path(path).name}' is damaged or not from this version: {brief(error)}"
            ) from error
        if not elements or any(symbol not in SYMBOLS[1:] for symbol in elements):
            raise PotentialError(f"'{Path(path).name}' names no known elements")
        known = environments.tensors() if environments else {}
        if any(not torch.isfinite(value).all() for value in (tensors | known).values()):
            raise PotentialError(f"'{Path(path).name}' holds weights that are not finite")
        return potential.to(device=device, dtype=dtype)


def predict(graph: Graph, vectors: Tensor, atoms: Tensor, slope: Tensor) -> Prediction:
    """Sum up what edges and atoms say.

    Args:
        graph: as given to the potential.
        vectors: (E, 3) of its edges, in angstrom.
        atoms: (A,) energies.
        slope: (E, 3) derivative of their sum by the vectors.
    """
    structures = graph.n_structures
    centre, neighbour = graph.edge_index[0], graph.edge_index[1]
    forces = torch.zeros_like(graph.positions)
    forces = forces.index_add(0, centre, slope).index_add(0, neighbour, -slope)
    owner = graph.batch.index_select(0, centre)
    # Rows of edges: products of columns of three are slow.
    virial = (vectors.T.contiguous()[:, None] * slope.T.contiguous()[None]).flatten(0, 1)
    virial = virial.new_zeros((structures, 9)).index_add(0, owner, virial.T).view(-1, 3, 3)
    volumes = torch.linalg.det(graph.cells).abs()
    volumes = torch.where(graph.periodic, volumes, torch.full_like(volumes, torch.inf))
    stress = 0.5 * (virial + virial.transpose(1, 2)) / volumes[:, None, None]
    energy = atoms.new_zeros(structures).index_add(0, graph.batch, atoms)
    return Prediction(energy=energy, forces=forces, stress=stress, atom_energy=atoms)


def _shape_of(header: dict[str, Any], n_tensors: int) -> Hyperparameters:
    """The hyperparameters of a file, within the ranges that a training has."""
    architecture, values = header["architecture"], dict(header["hyperparameters"])
    kind = _SHAPES[architecture]
    own = {f.name: values[f.name] for f in fields(kind)}
    if len(_list_of(own, "hidden") if "hidden" in own else []) > n_tensors:
        raise ValueError("it has not so many layers")
    settings = parse_settings(TrainSettings, {"architecture": architecture, **own})
    return kind(**{name: getattr(settings, name) for name in own})


def _check_sizes(empty: Potential, tensors: dict[str, Tensor]) -> None:
    """Refuse weights that are not those of the header, before room is made for what it says."""
    wanted = {name: value.shape for name, value in empty.state_dict().items()}
    if wanted != {name: value.shape for name, value in tensors.items()}:
        raise ValueError("its weights are not those of its hyperparameters")


def _core_of(header: dict[str, Any]) -> tuple[float, float]:
    """Scale and strength of the core, within the ranges that a training has."""
    values = {f"core_{name}": header["core"][name] for name in ("scale", "strength")}
    settings = parse_settings(PerturbSettings, values)
    return settings.core_scale, settings.core_strength


def _list_of(table: dict[str, Any], name: str) -> list[Any]:
    if not isinstance(table[name], list):
        raise TypeError(f"'{name}' is no list")
    return list(table[name])


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: dict[str, Tensor],
    header: dict[str, Any],
    previous: str | os.PathLike[str] | None = None,
) -> None:
    """Write tensors and a JSON header atomically; equal content gives equal bytes.

    Args:
        path: the file.
        tensors: by name.
        header: plain values; a checksum of everything is added.
        previous: the name that a file which is already there is kept under.

    Raises:
        DiskError: the file cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(target.name + ".tmp")
    whole = {name: tensor.contiguous() for name, tensor in sorted(tensors.items())}

    def pack(document: dict[str, Any]) -> bytes:
        # One metadata key alone: safetensors does not keep the order of several.
        text = json.dumps(document, sort_keys=True, allow_nan=False)
        return bytes(save(whole, metadata={"header": text}))

    content = pack(seal(pack(header)))
    try:
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        if previous is not None and target.exists():
            target.replace(previous)
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some disk space and rerun" if full else "mend that and rerun"
        raise DiskError(f"'{target.name}' could not be written ({error}); {remedy}") from error


def read_safetensors(
    path: str | os.PathLike[str], kind: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and header.

    Raises:
        PotentialError: it is missing, damaged, of another kind, or of a newer version.
    """
    name = Path(path).name
    if not Path(path).is_file():
        raise PotentialError(f"there is no file '{name}'; copy one that a training wrote there")
    try:
        with safe_open(path, framework="pt") as handle:
            header = json.loads((handle.metadata() or {})["header"])
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise PotentialError(
            f"'{name}' is not a {kind} file, or damaged: {brief(error)}"
        ) from error
    if not isinstance(header, dict) or header.get("kind") != kind:
        raise PotentialError(f"'{name}' is not a {kind} file")
    if header.get("schema") != SCHEMA_VERSION:
        raise PotentialError(
            f"'{name}' has schema version {brief(header.get('schema'))}, this engine reads "
            f"{SCHEMA_VERSION}; use the aiida-rm that wrote it"
        )
    try:
        with Path(path).open("rb") as raw:
            check_seal(raw)
    except (OSError, ValueError, RecursionError) as error:
        raise PotentialError(f"'{name}' is damaged: {error}") from error
    header.pop(NAME, None)
    return tensors, header
