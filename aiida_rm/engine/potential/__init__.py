"""The trained potential: network, repulsive core, energy to forces and stress, file format."""

from aiida_rm.engine.potential.equivariant import EquivariantHyperparameters
from aiida_rm.engine.potential.local import LocalHyperparameters
from aiida_rm.engine.potential.potential import (
    Hyperparameters,
    Potential,
    Prediction,
    read_safetensors,
    write_safetensors,
)

__all__ = [
    "EquivariantHyperparameters",
    "Hyperparameters",
    "LocalHyperparameters",
    "Potential",
    "Prediction",
    "read_safetensors",
    "write_safetensors",
]
