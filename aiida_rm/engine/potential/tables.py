"""Constants beside a network's weights, where the weights are and as exact as they can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn


class Tables(nn.Module):
    """Constants as tensors, by name; no part of the weights in a file.

    They go where their module goes, so that no step copies them to a GPU and waits for it. Other
    than buffers they are made anew for each dtype: in float32 those lose digits for good, and
    break the symmetry.
    """

    def __init__(self, **exact: ArrayLike) -> None:
        super().__init__()
        self._exact = exact
        for name, values in exact.items():
            table = torch.as_tensor(values, dtype=torch.get_default_dtype())
            self.register_buffer(name, table, persistent=False)

    def __getitem__(self, name: str) -> Tensor:
        table: Tensor = getattr(self, name)
        return table

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """What ``to``, ``double`` and their like do."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, values in self._exact.items():
            moved = self[name]
            exact = torch.as_tensor(values, dtype=moved.dtype, device=moved.device)
            self.register_buffer(name, exact, persistent=False)
        return self
