"""How time and memory grow with the dataset: the way through AiiDA at two sizes.

A dataset becomes a node; a job makes one perturbed copy of each structure, another one trains a
tiny network for one epoch; a job makes structures; they are asked for by label and by query,
selected, and written as extxyz and as an archive. Peak memory is that of this process, of the
daemon's one worker, and of each job.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import sysconfig
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, finish, table

from aiida_rm.engine.frames import Frames

#: Structures that go in, and those that come back, in each of the two runs.
SIZES = ((10_000, 1_000), (100_000, 10_000))
QUICK_SIZES = ((300, 30), (3_000, 300))
#: Elements of the dataset.
NUMBERS = np.array([3, 6, 8, 14, 22, 26], np.uint8)
TRAIN: dict[str, Any] = {
    "epochs": 1,
    "cutoff": 3.0,
    "channels": 2,
    "radial": 3,
    "l_max": 1,
    "hidden": [6],
    "batch_atoms": 4000,
}


def dataset(count: int, seed: int) -> Frames:
    """Crystals of 2 to 12 atoms on displaced grid points, 10 cubic angstrom an atom."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 13, count)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)
    numbers, positions, cells = [], [], []
    for size in sizes:
        per_side = math.ceil(size ** (1 / 3))
        points = grid[(grid < per_side).all(axis=1)]
        chosen = points[rng.permutation(len(points))[:size]]
        side = 10 ** (1 / 3) * per_side
        places = (chosen + 0.1 * rng.standard_normal((size, 3))) / per_side
        numbers.append(rng.choice(NUMBERS, size))
        positions.append(places * side)
        cells.append(np.eye(3) * side)
    return Frames.build(numbers, positions, cells=np.array(cells))


@contextmanager
def own_profile(folder: Path) -> Any:
    """A profile that goes with the folder; the code of the engine."""
    os.environ["AIIDA_PATH"] = str(folder)
    scripts = sysconfig.get_path("scripts")
    os.environ["PATH"] = f"{scripts}{os.pathsep}{os.environ['PATH']}"  # the daemon is a verdi
    from aiida import orm
    from aiida.engine.daemon.client import get_daemon_client
    from aiida.manage.configuration import create_profile, get_config, load_profile

    config = get_config(create=True)
    create_profile(
        config,
        name="scale",
        email="scale@localhost",
        storage_backend="core.sqlite_dos",
        storage_config={},
        broker_backend="core.zeromq",
    )
    config.set_default_profile("scale").store()
    load_profile("scale")
    for name in ("aiida", "aiida.export"):
        logging.getLogger(name).setLevel(logging.WARNING)
    computer = orm.Computer(
        label="localhost",
        hostname="localhost",
        transport_type="core.local",
        scheduler_type="core.direct",
        workdir=str(folder / "work"),
    ).store()
    computer.set_minimum_job_poll_interval(0.5)
    computer.configure(safe_interval=0.0, use_login_shell=False)
    program = Path(scripts) / "aiida-rm-engine"
    code = orm.InstalledCode(label="engine", computer=computer, filepath_executable=str(program))
    daemon = get_daemon_client()
    daemon.start_daemon(1)
    try:
        yield code.store(), daemon
    finally:
        daemon.stop_daemon(timeout=60)


def peak_mb(process: Any = "self") -> float:
    """Most memory of a process since it was last forgotten."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


def forget_peak(process: Any = "self") -> None:
    """Begin anew with what it holds now."""
    Path(f"/proc/{process}/clear_refs").write_text("5")


class Steps:
    """Time and peak memory of one step after the other."""

    def __init__(self, daemon: Any) -> None:
        self.figures: dict[str, dict[str, float]] = {}
        self._daemon = daemon

    def run(self, name: str, work: Callable[[], Any]) -> Any:
        """Do it, and write down what it took."""
        gc.collect()
        forget_peak()
        began = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - began
        self.figures[name] = {"s": seconds, "mb": peak_mb()}
        print(f"  {name}: {seconds:.1f} s, {peak_mb():.0f} MB", flush=True)
        return result

    def job(self, name: str, process: Any, **inputs: Any) -> Any:
        """Let the daemon run a job; its outputs."""
        from aiida.engine import submit

        (worker,) = (int(pid) for pid in self._daemon.get_worker_info()["info"])
        forget_peak(worker)

        def work() -> Any:
            node = submit(process, **inputs)
            while not node.is_terminated:
                time.sleep(0.2)
            return node

        node = self.run(name, work)
        if not node.is_finished_ok:
            raise SystemExit(f"{name}: [{node.exit_status}] {node.exit_message}")
        results = node.outputs.results.get_dict()
        self.figures[name] |= {
            "worker_mb": peak_mb(worker),
            "engine_s": results["wall_seconds"],
            "engine_mb": results["engine"]["peak_memory_mb"],
        }
        return node.outputs


def measure(
    code: Any, daemon: Any, count: int, made: int, seed: int, folder: Path
) -> dict[str, Any]:
    """All steps for ``count`` structures in and ``made`` structures out."""
    from aiida import orm
    from aiida.plugins import CalculationFactory
    from aiida.tools.archive import create_archive
    from ase.io import write

    from aiida_rm.calculations.functions import select_frames
    from aiida_rm.data.frames import FramesData
    from aiida_rm.engine.converters import to_ase

    steps = Steps(daemon)
    frames = dataset(count, seed)
    node = steps.run("into a node", lambda: FramesData(frames).store())
    copies = steps.job(
        "perturb",
        CalculationFactory("rm.perturb"),
        code=code,
        frames=node,
        settings={"samples": count, "min_atoms": 1, "seed": seed},
    ).frames
    potential = steps.job(
        "train", CalculationFactory("rm.train"), code=code, frames=copies, settings=TRAIN
    ).potential
    found = steps.job(
        "generate",
        CalculationFactory("rm.generate"),
        code=code,
        potential=potential,
        settings={
            "n_structures": made,
            "n_atoms": [4],
            "seed": seed,
            "stages": [{"kind": "relax", "max_steps": 5}],
        },
    ).frames

    def query() -> int:
        builder = orm.QueryBuilder().append(
            FramesData,
            filters={
                "attributes.n_structures": made,
                "attributes.elements": {"contains": ["C"]},
            },
            project=["attributes.formulas"],
        )
        fmax = orm.load_node(found.pk).get_array("structure_fmax")
        return len(builder.all()) + int((fmax < np.median(fmax)).sum())

    steps.run("query", query)
    chosen = steps.run("select half", lambda: select_frames(found, orm.Dict({"limit": made // 2})))
    assert len(chosen) > 0
    read = found.get_frames()
    steps.run(
        "extxyz",
        lambda: write(folder / "all.extxyz", (to_ase(read, i) for i in range(len(read)))),
    )
    steps.run(
        "archive",
        lambda: create_archive([found], filename=folder / f"{count}.aiida", overwrite=True),
    )
    return steps.figures


def main() -> None:
    """Measure both sizes, and how each step grows."""
    args = arguments(__doc__ or "")
    sizes = QUICK_SIZES if args.quick else SIZES
    runs = {}
    with tempfile.TemporaryDirectory() as name, own_profile(Path(name)) as (code, daemon):
        for count, made in sizes:
            print(f"{count} structures in, {made} out", flush=True)
            runs[count] = measure(code, daemon, count, made, args.seed, Path(name))
    small, large = runs.values()
    factor = sizes[1][0] / sizes[0][0]
    rows = []
    for step, figures in large.items():
        before = small[step]
        growth = math.log(figures["s"] / before["s"]) / math.log(factor)
        shown = [
            f"{name} {before[key]:.{digits}f} -> {figures[key]:.{digits}f}"
            for name, key, digits in (
                ("s", "s", 1),
                ("MB", "mb", 0),
                ("worker MB", "worker_mb", 0),
                ("engine s", "engine_s", 1),
                ("engine MB", "engine_mb", 0),
            )
            if key in figures
        ]
        rows.append((step, f"{', '.join(shown)}; time grows to the power {growth:.2f}"))
    table(rows)
    finish("scale", args.seed, {"sizes": sizes, "runs": {str(k): v for k, v in runs.items()}})


if __name__ == "__main__":
    main()
