"""TrainingStateData: what a training that was cut short needs to go on."""

from __future__ import annotations

import re
from typing import Any

from aiida.orm.pydantic import OrmMetadataField

from aiida_rm.data.safetensors_header import HeaderError, SafetensorsData, need
from aiida_rm.engine import files

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class TrainingStateData(SafetensorsData):
    """Weights, optimiser, schedule and random states of an unfinished training.

    It exists only when a run was cut short, and is the input of the run that goes on.
    """

    FILENAME = files.OUTPUT_STATE
    KIND = "training_state"

    class AttributesModel(SafetensorsData.AttributesModel):
        """What can be queried, for example ``TrainingStateData.fields.epoch > 10``."""

        epoch: int = OrmMetadataField(description="Passes through the training set so far")
        step: int = OrmMetadataField(description="Steps of the optimiser so far")
        digest: str = OrmMetadataField(description="SHA-256 of the settings and data it fits")
        schema_version: int = OrmMetadataField(description="Version of the format")

    @classmethod
    def attributes_of(cls, header: dict[str, Any]) -> dict[str, Any]:
        """The attributes of a state with this header.

        Raises:
            HeaderError: an entry is missing or wrong.
        """
        for name in ("epoch", "step"):
            if need(header, name, int) < 0:
                raise HeaderError(f"'{name}' in the header is {header[name]}, below 0")
        if not _SHA256.match(need(header, "digest", str)):
            raise HeaderError("'digest' in the header is no SHA-256 sum in hexadecimal digits")
        return {
            "epoch": header["epoch"],
            "step": header["step"],
            "digest": header["digest"],
            "schema_version": header["schema"],
        }

    @property
    def epoch(self) -> int:
        """Passes through the training set so far."""
        return int(self.base.attributes.get("epoch"))

    @property
    def step(self) -> int:
        """Steps of the optimiser so far."""
        return int(self.base.attributes.get("step"))

    @property
    def digest(self) -> str:
        """SHA-256 of the settings and the data that the state belongs to."""
        return str(self.base.attributes.get("digest"))
