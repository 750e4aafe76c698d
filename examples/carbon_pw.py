"""One diamond in, new carbon out, with Quantum ESPRESSO as the referee: rm.loop through AiiDA.

    python examples/carbon_pw.py --upf C.UPF --ecutwfc 40 --ecutrho 160 [--rounds 3] [--best 10]

The best structures of each round are relaxed by pw.x (``tools/install_qe.sh``), recognised again,
and those within ``--above`` of the hull of diamond join the dataset. Everything is stored under
``.demo``; a loop that was stopped goes on with ``--go-on PK``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from diamond import make_builder
from isolated import open_profile
from rich.console import Console
from rich.table import Table

FAMILY = "carbon_{stem}_{ecutwfc:g}_{ecutrho:g}"
console = Console()


def main() -> int:
    """Set up, run, show; the exit status of the loop."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--upf", type=Path, required=True, help="a pseudopotential of carbon")
    parser.add_argument("--ecutwfc", type=float, required=True, help="its cutoff in Ry")
    parser.add_argument("--ecutrho", type=float, required=True, help="that of the density in Ry")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--best", type=int, default=10, help="structures for pw.x in each round")
    parser.add_argument("--starts", type=int, default=300, help="random starts in each round")
    parser.add_argument("--atoms", type=int, nargs="+", default=[2, 3, 4, 5, 6])
    parser.add_argument("--above", type=float, default=0.5, help="eV per atom above diamond")
    parser.add_argument("--protocol", default="fast", help="of aiida-quantumespresso")
    parser.add_argument("--kpoints", type=float, default=0.4, help="their distance in 1/angstrom")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers")
    parser.add_argument("--walltime", type=int, default=3600, help="of one run of pw.x, in s")
    parser.add_argument("--jobs", type=int, default=2, help="runs of pw.x at a time")
    parser.add_argument("--go-on", type=int, metavar="PK", help="of a loop that ended too early")
    given = parser.parse_args()
    if shutil.which("pw.x") is None:
        sys.exit("carbon_pw.py: pw.x is not installed; run tools/install_qe.sh")
    if not given.upf.is_file():
        sys.exit(f"carbon_pw.py: there is no file {given.upf}")
    engine = open_profile(console)

    from aiida import orm
    from aiida.engine import run_get_node
    from aiida.manage.caching import enable_caching

    from aiida_rm.workflows.loop import LoopWorkChain

    if given.go_on:
        builder = LoopWorkChain.get_builder_from_loop(orm.load_node(given.go_on))
    else:
        builder = carbon_builder(engine, given)
    with enable_caching():  # what was computed in an earlier run is taken from there
        outputs, node = run_get_node(builder)
    why = node.exit_message or ""
    console.print(f"rm.loop <{node.pk}> ended with {node.exit_status} {why}", markup=False)
    show(outputs)
    return 0 if node.is_finished_ok else 1


def carbon_builder(engine: Any, given: argparse.Namespace) -> Any:
    """The loop of examples/diamond.py, with a referee."""
    from aiida_rm.workflows.referees import with_referees

    builder = make_builder(engine, "balanced", given.seed, None)
    builder.rounds = given.rounds
    settings = builder.generate.generate.settings.get_dict()
    settings |= {"n_structures": given.starts, "n_atoms": given.atoms}
    builder.generate.generate.settings = settings
    rules = {
        "valid": True,
        "unique": True,
        "novel": True,
        "max_pw_above_hull": given.above,
        "sort": "energy_per_atom",
    }
    referee = {
        "code": pw_code(engine.computer),
        "settings": {
            "protocol": given.protocol,
            "pseudo_family": pseudo_family(given.upf, given.ecutwfc, given.ecutrho),
            "kpoints_distance": given.kpoints,
        },
        "options": {
            "max_wallclock_seconds": given.walltime,
            "prepend_text": "export OMP_NUM_THREADS=1",
        },
        "references": builder.dataset,
        "max_concurrent": given.jobs,
    }
    judged = with_referees({"rules": rules}, {"pw": referee})
    builder.validate.rules = judged["rules"]
    builder.validate.referees = judged["referees"]
    builder.validate.adopt = "pw"
    builder.validate.max_judged = given.best
    return builder


def pw_code(computer: Any) -> Any:
    """The code of pw.x, made where it is missing."""
    from aiida import orm

    path = str(shutil.which("pw.x"))
    query = orm.QueryBuilder().append(
        orm.InstalledCode, filters={"label": "pw", "attributes.filepath_executable": path}
    )
    if query.count():
        return query.first(flat=True)
    return orm.InstalledCode(
        label="pw",
        computer=computer,
        filepath_executable=path,
        default_calc_job_plugin="quantumespresso.pw",
    ).store()


def pseudo_family(upf: Path, ecutwfc: float, ecutrho: float) -> str:
    """Label of a family of one pseudopotential with these cutoffs, made where it is missing."""
    from aiida import orm
    from aiida_pseudo.data.pseudo import UpfData
    from aiida_pseudo.groups.family import CutoffsPseudoPotentialFamily

    label = FAMILY.format(stem=upf.stem, ecutwfc=ecutwfc, ecutrho=ecutrho)
    if orm.QueryBuilder().append(orm.Group, filters={"label": label}).count():
        return label
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(upf, folder)
        family = CutoffsPseudoPotentialFamily.create_from_folder(
            Path(folder), label, pseudo_type=UpfData
        )
    cutoffs = {"C": {"cutoff_wfc": ecutwfc, "cutoff_rho": ecutrho}}
    family.set_cutoffs(cutoffs, "normal", unit="Ry")
    return label


def show(outputs: Any) -> None:
    """Print each round, and what pw.x said of each structure."""
    if "rounds" not in outputs:
        return
    told = outputs["rounds"].get_dict()
    rows = told["rounds"]
    hidden = ("seconds", "force", "converged", "valid", "lowest_energy")
    names = [name for name in told["columns"] if not name.startswith(hidden)]
    names = [name for name in names if any(row[name] is not None for row in rows)]
    table = Table(title="Rounds", title_justify="left")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(text(row[name]) for name in names))
    console.print(table)
    for key, node in sorted(outputs.get("judged", {}).items()):
        frames = node.get_frames()
        labels = frames.structure
        table = Table(title=f"{key}: by energy above diamond (eV per atom)", title_justify="left")
        columns = ("above", "known as", "space group", "atoms", "density", "moved", "verdict")
        for name in columns:
            table.add_column(name)
        for row in labels["pw_above_hull"].argsort():
            table.add_row(
                text(float(labels["pw_above_hull"][row])),
                str(labels["match"][row]),
                str(labels["spacegroup"][row]),
                str(frames.counts[row]),
                text(float(labels["density"][row])),
                text(float(labels["pw_rmsd"][row])),
                str(labels["pw_verdict"][row])[:60],
            )
        console.print(table)


def text(value: Any) -> str:
    """A number short enough for a table."""
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
