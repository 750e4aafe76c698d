"""The stages' knobs as tensors, so that each structure reads those of the stage it is in."""

from __future__ import annotations

import torch
from torch import Tensor

from aiida_rm.engine.settings import CELL_MODES, MOVES, OPTIMIZERS, STAGE_KINDS, Stage

JITTER, LANGEVIN, HOP = (STAGE_KINDS.index(kind) for kind in ("jitter", "langevin", "hop"))
FIRE = OPTIMIZERS.index("fire")


class Schedule:
    """One entry a stage in every tensor; see :class:`settings.Stage` for what they mean."""

    def __init__(
        self, stages: tuple[Stage, ...], dtype: torch.dtype, device: torch.device | str
    ) -> None:
        #: Kinds that occur, to skip the work of those that do not.
        self.kinds = {stage.kind for stage in stages}
        self.optimizers = {stage.optimizer for stage in stages if stage.kind in ("relax", "hop")}
        #: Whether latent distances are asked for.
        self.latent = any(stage.latent_weight for stage in stages)
        #: Whether any stage wants molecules in one piece.
        self.connects = any(stage.connected for stage in stages)
        self.last = len(stages) - 1

        def real(name: str) -> Tensor:
            values = [getattr(stage, name) for stage in stages]
            return torch.tensor(values, dtype=dtype, device=device)

        def whole(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        self.kind = whole([STAGE_KINDS.index(stage.kind) for stage in stages])
        self.by_fire = whole([OPTIMIZERS.index(stage.optimizer) for stage in stages]) == FIRE
        self.cell_mode = whole([CELL_MODES.index(stage.cell) for stage in stages])
        self.max_steps = whole([stage.max_steps for stage in stages])
        self.cycles = whole([stage.cycles for stage in stages])
        self.connected = torch.tensor([stage.connected for stage in stages], device=device)
        #: (stages, kinds of move) how often each is named.
        self.moves = torch.tensor(
            [[stage.moves.count(move) for move in MOVES] for stage in stages],
            dtype=torch.float64,
            device=device,
        )
        self.fmax = real("fmax")
        self.amplitude = real("amplitude")
        self.strain = real("strain")
        self.temperature = real("temperature")
        self.latent_weight = real("latent_weight")
        self.final_temperature = real("final_temperature")
        self.time_step = real("time_step")
        self.friction = real("friction")
        self.pressure = real("pressure")
