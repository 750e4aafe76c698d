"""Random numbers that depend on who asks, not on when: the same in any batch and on any device.

A number is a hash of words: the structure's seed and index, the stage, the step, the atom. The
hash is the output function of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014, 453), once a word, in
torch's 64-bit integers, which wrap around as they must.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# What the words are for, so that no two uses share their numbers.
ATOMS, CELLS, JITTER, ACCEPT, FIRST, SECOND, MOVE, EVEN, PLACES, STRAIN = range(10)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


_STEP = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def hashed(state: Tensor, *words: Tensor | int) -> Tensor:
    """A new int64 state from a state and words, one after the other; all broadcast."""
    for word in words:
        # A number stays one: as a tensor it would have to be copied to a GPU.
        step = _STEP * (word + 1)
        state = _mix(state + (step if isinstance(step, Tensor) else _signed(step % 2**64)))
    return state


def uniform(state: Tensor) -> Tensor:
    """Float64 in [0, 1), evenly, with 53 bits."""
    return _right(state, 11).double() * 2.0**-53


def normal(state: Tensor) -> Tensor:
    """Float64 of the standard normal distribution (Box & Muller, 1958)."""
    # Two numbers of 32 bits; the first is never 0.
    size = (_right(state, 32).double() + 0.5) * 2.0**-32
    turn = (state & 0xFFFFFFFF).double() * 2.0**-32
    return torch.sqrt(-2.0 * torch.log(size)) * torch.cos(2.0 * math.pi * turn)


def components(state: Tensor, count: int) -> Tensor:
    """(..., count) states from (...): one for each of ``count`` numbers."""
    return hashed(state[..., None], torch.arange(count, device=state.device))


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _right(z, 30)) * _FIRST
    z = (z ^ _right(z, 27)) * _SECOND
    return z ^ _right(z, 31)


def _right(z: Tensor, bits: int) -> Tensor:
    """Shift that fills with zeros; torch's own repeats the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
