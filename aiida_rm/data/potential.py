"""PotentialData: a trained potential as an AiiDA node."""

from __future__ import annotations

import importlib
import math
from typing import Any

from aiida.orm.pydantic import OrmMetadataField

from aiida_rm.data.safetensors_header import (
    HeaderError,
    SafetensorsData,
    need,
    need_elements,
    small,
)
from aiida_rm.engine import files

#: What ``dtype`` may be.
_DTYPES = ("float32", "float64")


class PotentialData(SafetensorsData):
    """A trained potential: safetensors weights with a JSON header, and attributes to query.

    >>> PotentialData("potential.safetensors")
    """

    FILENAME = files.OUTPUT_POTENTIAL
    KIND = "potential"

    class AttributesModel(SafetensorsData.AttributesModel):
        """What can be queried, for example ``PotentialData.fields.cutoff < 5``."""

        architecture: str = OrmMetadataField(description="Kind of network")
        elements: list[str] = OrmMetadataField(description="Symbols that it was trained on")
        cutoff: float = OrmMetadataField(description="Reach of an atom, in angstrom")
        n_parameters: int = OrmMetadataField(description="Number of weights")
        dtype: str = OrmMetadataField(description="Number format of the weights")
        hyperparameters: dict = OrmMetadataField(description="Sizes of the network")
        training: dict = OrmMetadataField(description="Summary of the training")
        schema_version: int = OrmMetadataField(description="Version of the format")

    @classmethod
    def attributes_of(cls, header: dict[str, Any]) -> dict[str, Any]:
        """The attributes of a potential with this header.

        Raises:
            HeaderError: an entry is missing or wrong.
        """
        elements = need_elements(header)
        cutoff = need(header, "cutoff", float)
        if not math.isfinite(cutoff) or cutoff <= 0:
            raise HeaderError(f"'cutoff' in the header must be positive, is {cutoff}")
        if need(header, "n_parameters", int) < 0:
            raise HeaderError(f"'n_parameters' in the header is {header['n_parameters']}")
        if need(header, "dtype", str) not in _DTYPES:
            raise HeaderError(
                f"'dtype' in the header is '{header['dtype']}', known are {', '.join(_DTYPES)}"
            )
        if not need(header, "architecture", str):
            raise HeaderError("'architecture' in the header is empty")
        return {
            "architecture": small(header["architecture"]),
            "elements": elements,
            "cutoff": cutoff,
            "n_parameters": header["n_parameters"],
            "dtype": header["dtype"],
            "hyperparameters": small(header.get("hyperparameters")) or {},
            "training": small(header.get("training")) or {},
            "schema_version": header["schema"],
        }

    @property
    def architecture(self) -> str:
        """Kind of network."""
        return str(self.base.attributes.get("architecture"))

    @property
    def elements(self) -> list[str]:
        """Symbols that it was trained on."""
        return list(self.base.attributes.get("elements"))

    @property
    def cutoff(self) -> float:
        """Reach of an atom, in angstrom."""
        return float(self.base.attributes.get("cutoff"))

    @property
    def n_parameters(self) -> int:
        """Number of weights."""
        return int(self.base.attributes.get("n_parameters"))

    def get_calculator(self, **kwargs: Any) -> Any:
        """The potential as an ASE calculator; this loads torch.

        Args:
            kwargs: passed on to ``ResponseMatchingCalculator.from_file``.
        """
        # A door from the AiiDA side to torch, as below. It is opened by name at the moment of use,
        # so that importing this module (as verdi and the daemon do) never loads torch.
        module = importlib.import_module("aiida_rm.engine.calculator")
        with self.as_path() as path:
            return module.ResponseMatchingCalculator.from_file(path, **kwargs)

    def get_torchsim_model(self, **kwargs: Any) -> Any:
        """The potential as a model of TorchSim, which must be installed; this loads torch.

        Args:
            kwargs: passed on to ``aiida_rm.engine.torchsim.torchsim_model``.
        """
        module = importlib.import_module("aiida_rm.engine.torchsim")
        with self.as_path() as path:
            return module.torchsim_model(path, **kwargs)
