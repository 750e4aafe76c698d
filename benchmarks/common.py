"""What every benchmark needs: its arguments, the machine, and the last line of JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

# As the engine does; read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch

from aiida_rm import __version__
from aiida_rm.engine.processes import hold_memory

# As the engine does, too.
hold_memory()


def arguments(text: str, **defaults: Any) -> argparse.Namespace:
    """``--quick --seed N --threads N`` and what ``defaults`` adds (``--name VALUE``)."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--quick", action="store_true", help="under 5 minutes on 2 cores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="0: as torch likes")
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    found = parser.parse_args()
    if found.threads:
        torch.set_num_threads(found.threads)
    return found


def machine() -> dict[str, Any]:
    """Hardware and versions, without names of hosts."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "aiida_rm": __version__,
    }


def table(rows: list[tuple[str, Any]]) -> None:
    """Print names and figures in two columns."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        print(f"{name:<{width}}  {shown}")


def finish(name: str, seed: int, figures: dict[str, Any]) -> None:
    """The last line: one JSON object with every figure, the seed and the machine."""
    print(json.dumps({"benchmark": name, "seed": seed, **figures, "machine": machine()}))
