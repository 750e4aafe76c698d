"""What surroundings of atoms a potential has learnt from: how far from them is another one?

A network is only right where it has data, and its own energies do not say where that is. Distances
in its last hidden layer do: the latent distance of Janet et al., Chemical Science 10, 7913 (2019).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Pairs of atoms that are compared at once, at most.
_PAIRS = 4_000_000
#: A part of the hidden layer that hardly differs among the atoms counts as differing by this share
#: of what all parts differ by, or it alone would decide.
_LEAST = 0.1
_PARTS = ("numbers", "features", "means", "scale")


class Environments(nn.Module):
    """Atoms of the training set, by what the last hidden layer says of them.

    Attributes:
        numbers: (N,) atomic numbers, ascending.
        features: (N, H) of the hidden layer, from the mean of the element, in units of ``scale``.
        means: (K, H) of the K elements, in the order of their numbers.
        scale: (H,) root mean square distance from the mean of the element, over all elements.
    """

    numbers: Tensor
    features: Tensor
    means: Tensor
    scale: Tensor

    def __init__(self, numbers: Tensor, features: Tensor, means: Tensor, scale: Tensor) -> None:
        super().__init__()
        # Not of the weights: these make room before they know how many there are.
        for name, tensor in zip(_PARTS, (numbers, features, means, scale), strict=True):
            self.register_buffer(name, tensor, persistent=False)
        kinds, counts = torch.unique_consecutive(numbers.cpu(), return_counts=True)
        #: Atomic numbers, and how many atoms of each there are.
        self.counts: dict[int, int] = dict(zip(kinds.tolist(), counts.tolist(), strict=True))

    @classmethod
    def of(cls, hidden: Tensor, numbers: Tensor) -> Environments:
        """Of atoms with these hidden layers (N, H) and atomic numbers (N,)."""
        numbers, order = torch.sort(numbers, stable=True)
        hidden = hidden[order]
        kinds, which = torch.unique_consecutive(numbers, return_inverse=True)
        sums = hidden.new_zeros((len(kinds), hidden.shape[1])).index_add(0, which, hidden)
        means = sums / torch.bincount(which)[:, None]
        away = hidden - means[which]
        free = max(1, len(numbers) - len(kinds))
        scale = (away.square().sum(0) / free).sqrt()
        scale = scale.clamp(min=max(1e-6, _LEAST * float(scale.square().mean().sqrt())))
        # With the digits that a file keeps, so that nothing changes there.
        return cls(numbers, (away / scale).half().to(hidden), means, scale)

    def distances(self, hidden: Tensor, numbers: Tensor) -> Tensor:
        """(A,) to the nearest atom of the same element, from (A, H) and (A,); inf: there is none.

        The unit is what atoms of one element differ by in the training set, in one dimension.
        """
        found = torch.full_like(hidden[:, 0], torch.inf)
        begin = 0
        for kind, (number, count) in enumerate(self.counts.items()):
            known = self.features[begin : begin + count]
            begin += count
            own = torch.nonzero(numbers == number)[:, 0]
            for some in torch.split(own, max(1, _PAIRS // count)):
                places = (hidden.index_select(0, some) - self.means[kind]) / self.scale
                # By differences, not by products of matrices: the same in any batch.
                exact = "donot_use_mm_for_euclid_dist"
                nearest = torch.cdist(places, known, compute_mode=exact).amin(1)
                found = found.index_copy(0, some, nearest)
        return found

    def tensors(self) -> dict[str, Tensor]:
        """For the file of a potential."""
        return {
            "environment_numbers": self.numbers.to(torch.uint8),
            "environment_features": self.features.half(),
            "environment_means": self.means.float(),
            "environment_scale": self.scale.float(),
        }

    @classmethod
    def taken_from(cls, tensors: dict[str, Tensor]) -> Environments | None:
        """What :meth:`tensors` gave, taken out of the tensors of a file; None: nothing is there.

        Raises:
            ValueError: they do not fit together.
        """
        found = [tensors.pop(f"environment_{part}", None) for part in _PARTS]
        if all(tensor is None for tensor in found):
            return None
        numbers, features, means, scale = found
        if numbers is None or features is None or means is None or scale is None:
            raise ValueError("not all of its environments are there")
        atoms, width = len(numbers.reshape(-1)), len(scale.reshape(-1))
        kinds = len(torch.unique(numbers))
        shapes = [tuple(tensor.shape) for tensor in (numbers, features, means, scale)]
        if shapes != [(atoms,), (atoms, width), (kinds, width), (width,)] or not atoms:
            raise ValueError("its environments do not fit together")
        if bool((numbers.long().diff() < 0).any()):
            raise ValueError("its environments are not in order")
        return cls(numbers.long(), features.float(), means, scale)
