"""What is known of a small training set of oxides."""

from __future__ import annotations

from typing import Any

import pytest

from aiida_rm.engine.settings import GenerateSettings


@pytest.fixture
def notes() -> dict[str, Any]:
    return {
        "n_structures": 60,
        "composition": {"O": 0.5, "Mg": 0.3, "Ti": 0.2},
        "elemental_volumes": {"O": 10.0, "Mg": 8.0, "Ti": 9.0},
        "volume_spread": 0.1,
        "pair_distances": {"O O": 2.5, "O Mg": 2.0, "O Ti": 1.8, "Mg Mg": 2.9},
        "distance_ratio": 1.1,
        "formulas": {"MgO": 30, "O2Ti": 20, "Mg2O4Ti": 10},
        "n_atoms": {"2": 30, "3": 20, "7": 10},
        "n_elements": {"2": 50, "3": 10},
    }


@pytest.fixture
def settings() -> GenerateSettings:
    return GenerateSettings(n_structures=40, seed=7)
