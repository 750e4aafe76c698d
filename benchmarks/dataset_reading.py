"""How long 50,000 crystals take to enter, and how much memory: one process for each format.

Real crystals (`mp_pool.extxyz` in the folder that the environment variable AIIDA_RM_DATA names) are
repeated under new ids and written in each format by its own library. A fresh process then reads the
file; its peak memory is what Linux says (VmHWM: getrusage would count what the parent held when it
started the process), libraries included, and without the helpers of --processes, which share the
CIFs of the csv. It may take 4 GiB of addresses and no more, an upper bound of any memory, also
where a system takes pages back early. Every format must agree in
number, elements in order, total volume and some ids.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import ase.db
import ase.io
from common import arguments, finish, table
from pymatgen.io.cif import CifWriter

from aiida_rm.engine.converters import from_ase, to_pymatgen

DATA = "mp_pool.extxyz"
#: What the fresh process does; no torch, as in a shell that only reads.
READ = """
import json, re, resource, sys, time
from pathlib import Path
import numpy as np
began = time.perf_counter()
from aiida_rm.engine.readers import read_dataset
if __name__ == '__main__':
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    data = read_dataset(sys.argv[1], processes=int(sys.argv[2]))
    seconds = time.perf_counter() - began
    frames = data.frames
    status = Path('/proc/self/status').read_text()
    peaks = [int(re.search(name + ':\\s+(\\d+) kB', status)[1]) for name in ('VmHWM', 'VmPeak')]
    print(json.dumps({
        'seconds': seconds,
        'peak_gib': peaks[0] / 2**20,
        'address_space_gib': peaks[1] / 2**20,
        'structures': len(frames),
        'problems': len(data.problems),
        'volume': float(frames.volumes.sum()),
        'numbers': int((frames.numbers * np.arange(frames.n_atoms, dtype=float)).sum()),
        'ids': [str(name) for name in frames.structure['id'][[0, len(frames) // 2, -1]]],
    }))
"""


def write_all(folder: Path, source: Path, count: int) -> dict[str, Path]:
    """The same crystals in every format."""
    some = list(islice(ase.io.iread(source), count))
    frames = from_ase(some)
    structures = [to_pymatgen(frames, index) for index in range(len(some))]
    cifs = [str(CifWriter(structure)) for structure in structures]
    dicts = [structure.as_dict() for structure in structures]
    names = [f"{some[i % len(some)].info['id']}-{i // len(some)}" for i in range(count)]
    paths = {kind: folder / f"set.{kind}" for kind in ("extxyz", "csv", "db", "json")}

    def repeated() -> Any:
        for index, name in enumerate(names):
            atoms = some[index % len(some)]
            atoms.info["id"] = name
            yield atoms

    with paths["extxyz"].open("w") as stream:
        for atoms in repeated():
            ase.io.write(stream, atoms, format="extxyz")
    with paths["csv"].open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["material_id", "cif"])
        writer.writerows((name, cifs[i % len(some)]) for i, name in enumerate(names))
    with ase.db.connect(paths["db"]) as database:
        for atoms in repeated():
            database.write(atoms, material_id=atoms.info["id"])
    with paths["json"].open("w") as stream:
        for index, name in enumerate(names):
            entry = {"material_id": name, "structure": dicts[index % len(some)]}
            stream.write(("," if index else "[") + json.dumps(entry))
        stream.write("]")
    return paths


def measure(path: Path, processes: int, folder: Path) -> dict[str, Any]:
    """Read a file in a process of its own."""
    # A file, not `-c`: further processes import it.
    script = folder / "read.py"
    script.write_text(READ)
    command = [sys.executable, str(script), str(path), str(processes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"reading '{path.name}' failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print the table and the JSON line."""
    given = arguments(__doc__ or "", structures=50_000, processes=1)
    count = 2_000 if given.quick else given.structures
    source = Path(os.environ.get("AIIDA_RM_DATA", ".")) / DATA
    if not source.is_file():
        raise SystemExit(f"set AIIDA_RM_DATA to the folder of an unpacked {DATA}")
    figures: dict[str, Any] = {"structures": count, "processes": given.processes}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {}
        for kind, path in write_all(folder, source, count).items():
            found[kind] = measure(path, given.processes, folder)
            figures[f"{kind}_file_mib"] = path.stat().st_size / 2**20
            for key in ("seconds", "peak_gib", "address_space_gib", "problems"):
                figures[f"{kind}_{key}"] = found[kind][key]
    first = found["extxyz"]
    figures["same_in_all"] = all(
        item["structures"] == count
        and item["ids"] == first["ids"]
        and item["numbers"] == first["numbers"]
        and abs(item["volume"] / first["volume"] - 1) < 1e-5
        for item in found.values()
    )
    table(list(figures.items()))
    finish("dataset_reading", given.seed, figures)


if __name__ == "__main__":
    main()
