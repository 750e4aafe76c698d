"""A tiny loop that really ran: two rounds from one diamond, two jobs a search; as an archive."""

from __future__ import annotations

import json
import sysconfig
from dataclasses import asdict, dataclass
from pathlib import Path

from aiida import orm
from aiida.engine import run_get_node
from aiida.tools.archive import create_archive

from aiida_rm.calculations.functions import extract_structure, frames_from_structures
from aiida_rm.workflows.loop import LoopWorkChain
from tests.workflows.conftest import TINY


@dataclass(frozen=True)
class Loop:
    """What the archive holds, by UUID: the loop, its dataset's diamond, one accepted structure."""

    archive: str
    loop: str
    diamond: str
    structure: str


def only_once(folder: Path, scratch: Path) -> Loop:
    """The loop that another process of pytest made there, or a new one."""
    made = folder / "loop.json"
    if made.is_file():
        return Loop(**json.loads(made.read_text()))
    loop = run_loop(folder, scratch)
    made.write_text(json.dumps(asdict(loop)))
    return loop


def run_loop(folder: Path, scratch: Path) -> Loop:
    """Run it in the profile that is loaded, and make the archive."""
    from ase.build import bulk

    computer = orm.Computer("loop", "localhost", "", "core.local", "core.direct", str(scratch))
    computer.store().configure(safe_interval=0, use_login_shell=False)
    computer.set_minimum_job_poll_interval(0.2)
    engine = Path(sysconfig.get_path("scripts")) / "aiida-rm-engine"
    code = orm.InstalledCode(
        label="loop",
        computer=computer,
        filepath_executable=str(engine),
        prepend_text="export OMP_NUM_THREADS=1",
    ).store()
    diamond = orm.StructureData(ase=bulk("C", "diamond", a=3.567)).store()
    diamond.label = "diamond"
    dataset = frames_from_structures(diamond=diamond)
    overrides = {
        "rounds": 2,
        "perturb": {"settings": TINY["perturb"]},
        "train": {"train": {"settings": TINY["train"]}},
        "generate": {"n_jobs": 2, "generate": {"settings": TINY["generate"]}},
        "validate": {
            "score": {"settings": TINY["score"]},
            "rules": {"valid": True, "unique": True, "limit": 2},
        },
    }
    builder = LoopWorkChain.get_builder_from_protocol(
        code, dataset, protocol="fast", overrides=overrides, known=dataset
    )
    results, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    structure = extract_structure(results["accepted"], orm.Int(len(results["accepted"]) - 1))
    archive = folder / "loop.aiida"
    create_archive([node, structure], filename=archive)
    return Loop(str(archive), node.uuid, diamond.uuid, structure.uuid)
