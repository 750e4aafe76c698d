"""What chance gives: the match rates of a set beside those of random structures, at equal k.

The more samples of a composition, the more often any of them matches, whatever made them. So the
null is scored by the same code, and both are compared at the same number of samples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

from aiida_rm.engine.scoring.composition import Composition

#: Crystals of a set that have a known composition, by their places.
Samples: TypeAlias = Mapping[int, Composition]


def any_of_k(hits: int, total: int, k: int) -> float:
    """How likely a draw of ``k`` of ``total`` samples, ``hits`` of which match, has a match.

    The mean over all draws without replacement (hypergeometric), so no seed enters. ``k`` is at
    most ``total``.
    """
    return 1 - math.comb(total - hits, k) / math.comb(total, k)


def beside_null(
    samples: Samples, matched: Collection[int], null: Samples, null_matched: Collection[int]
) -> dict[str, Any]:
    """Match rates of a set and of the null, on the compositions that both have.

    Args:
        samples: of the set.
        matched: places of those that match.
        null: of the null.
        null_matched: places of those that match.

    Returns:
        Under ``samples`` and ``null`` the share ``per_sample`` (compositions of the null weigh as
        much as they do in the set) and ``any_of_k``, the mean over compositions at the smaller of
        their two numbers of samples; ``ratio`` of both, None where the null finds nothing;
        ``compositions``, and the mean ``k``.
    """
    totals, others = Counter(samples.values()), Counter(null.values())
    hits = Counter(samples[row] for row in matched)
    other_hits = Counter(null[row] for row in null_matched)
    shared = sorted(set(totals) & set(others))
    found: dict[str, Any] = {"compositions": len(shared)}
    if not shared:
        return found
    ks = {what: min(totals[what], others[what]) for what in shared}
    weight = sum(totals[what] for what in shared)
    rates = {
        name: {
            "per_sample": sum(totals[what] * some[what] / every[what] for what in shared) / weight,
            "any_of_k": sum(any_of_k(some[what], every[what], ks[what]) for what in shared)
            / len(shared),
        }
        for name, some, every in (("samples", hits, totals), ("null", other_hits, others))
    }
    ratio = {
        rate: rates["samples"][rate] / chance if chance else None
        for rate, chance in rates["null"].items()
    }
    return found | {"k": sum(ks.values()) / len(shared), **rates, "ratio": ratio}
