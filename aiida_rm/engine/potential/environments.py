"""What surroundings of atoms a potential has learnt from: how far from them is another one?

A network is only right where it has data, and its own energies do not say where that is. Distances
in its last hidden layer do: the latent distance of Janet et al., Chemical Science 10, 7913 (2019).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Environments(nn.Module):
    """Atoms of the training set, by what the last hidden layer says of them.

    Attributes:
        numbers: (N,) atomic numbers.
        features: (N, H) of the hidden layer, from ``centre``, in units of ``scale``.
        centre: (H,) their mean.
        scale: (H,) root mean square distance from the mean of the element, over all elements.
    """

    numbers: Tensor
    features: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, numbers: Tensor, features: Tensor, centre: Tensor, scale: Tensor) -> None:
        super().__init__()
        # Not of the weights: these make room before they know how many there are.
        self.register_buffer("numbers", numbers, persistent=False)
        self.register_buffer("features", features, persistent=False)
        self.register_buffer("centre", centre, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    @classmethod
    def of(cls, hidden: Tensor, numbers: Tensor) -> Environments:
        """Of atoms with these hidden layers (N, H) and atomic numbers (N,)."""
        kinds, which = torch.unique(numbers, return_inverse=True)
        sums = hidden.new_zeros((len(kinds), hidden.shape[1])).index_add(0, which, hidden)
        means = sums / torch.bincount(which)[:, None]
        free = max(1, len(numbers) - len(kinds))
        scale = ((hidden - means[which]).square().sum(0) / free).sqrt().clamp(min=1e-6)
        centre = hidden.mean(0)
        # With the digits that a file keeps, so that nothing changes there.
        features = ((hidden - centre) / scale).half().to(hidden)
        return cls(numbers, features, centre, scale)

    def distances(self, hidden: Tensor, numbers: Tensor) -> Tensor:
        """(A,) to the nearest atom of the same element, from (A, H) and (A,); inf: there is none.

        The unit is what atoms of one element differ by in the training set, in one dimension.
        """
        # By differences, not by products of matrices: the same in any batch.
        exact = "donot_use_mm_for_euclid_dist"
        places = (hidden - self.centre) / self.scale
        apart = torch.cdist(places, self.features, compute_mode=exact)
        other = numbers[:, None] != self.numbers
        return apart.masked_fill(other, torch.inf).amin(1)

    def tensors(self) -> dict[str, Tensor]:
        """For the file of a potential."""
        return {
            "environment_numbers": self.numbers.to(torch.uint8),
            "environment_features": self.features.half(),
            "environment_centre": self.centre.float(),
            "environment_scale": self.scale.float(),
        }

    @classmethod
    def taken_from(cls, tensors: dict[str, Tensor]) -> Environments | None:
        """What :meth:`tensors` gave, taken out of the tensors of a file; None: nothing is there.

        Raises:
            ValueError: they do not fit together.
        """
        parts = ("numbers", "features", "centre", "scale")
        found = [tensors.pop(f"environment_{part}", None) for part in parts]
        if all(tensor is None for tensor in found):
            return None
        numbers, features, centre, scale = found
        if numbers is None or features is None or centre is None or scale is None:
            raise ValueError("not all of its environments are there")
        wide, high = centre.shape, numbers.shape
        if (
            len(wide) != 1
            or len(high) != 1
            or features.shape != (*high, *wide)
            or scale.shape != wide
        ):
            raise ValueError("its environments do not fit together")
        return cls(numbers.long(), features.float(), centre, scale)
