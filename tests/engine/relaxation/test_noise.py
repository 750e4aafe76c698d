"""Numbers that depend on their words alone, and are distributed as they should be."""

from __future__ import annotations

import math

import pytest
import torch

from aiida_rm.engine.relaxation import noise


def states(structures: int, atoms: int) -> torch.Tensor:
    """As the stages make them: consecutive indices, atoms and components."""
    key = noise.hashed(torch.zeros(structures, dtype=torch.int64), 7, torch.arange(structures))
    return noise.components(noise.hashed(key[:, None], torch.arange(atoms)), 3)


def test_the_hash_is_splitmix64() -> None:
    """First outputs of SplitMix64 seeded with 0, as unsigned numbers (its reference code)."""
    words = noise.hashed(torch.zeros(3, dtype=torch.int64), torch.arange(3))
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [int(word) % 2**64 for word in words] == expected


def test_a_subset_has_the_same_numbers() -> None:
    whole = noise.normal(states(50, 20))
    assert torch.equal(noise.normal(states(50, 8)), whole[:, :8])
    assert torch.equal(noise.normal(states(9, 20)), whole[:9])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_normal_and_uncorrelated_along_each_word(axis: int) -> None:
    drawn = noise.normal(states(400, 60))
    count = drawn.numel()
    assert float(drawn.mean().abs()) < 5 / math.sqrt(count)
    assert float((drawn.square().mean() - 1).abs()) < 5 * math.sqrt(2 / count)
    assert float((drawn**4).mean() - 3) < 5 * math.sqrt(96 / count)
    one = drawn.narrow(axis, 0, drawn.shape[axis] - 1)
    next_ = drawn.narrow(axis, 1, drawn.shape[axis] - 1)
    assert float((one * next_).mean().abs()) < 5 / math.sqrt(one.numel())


def test_normal_in_every_part_of_the_distribution() -> None:
    """Kolmogorov's distance of 120,000 numbers, at a chance of about 1e-6."""
    drawn = torch.sort(noise.normal(states(400, 100)).flatten()).values
    expected = 0.5 * (1 + torch.erf(drawn / math.sqrt(2)))
    seen = (torch.arange(len(drawn)) + 0.5) / len(drawn)
    assert float((expected - seen).abs().max()) < 2.7 / math.sqrt(len(drawn))


def test_uniform_fills_its_range() -> None:
    drawn = noise.uniform(states(400, 100)).flatten()
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) < 1
    counts = torch.histc(drawn, bins=100, min=0, max=1)
    chi = float(((counts - len(drawn) / 100) ** 2 / (len(drawn) / 100)).sum())
    assert chi < 99 + 5 * math.sqrt(2 * 99)
