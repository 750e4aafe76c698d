"""What a study found, asked with aiida_rm.queries: by default of the last loop of the demo.

python examples/querying.py [PK]              # in the profile of `make demo`
verdi run examples/querying.py PK             # in your own
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from rich.console import Console

console = Console()


def main() -> int:
    """Find the loop, ask, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pk", type=int, nargs="?", help="of a loop; by default the last one")
    given = parser.parse_args()
    if "aiida" not in sys.modules:  # `verdi run` has loaded a profile
        from isolated import open_profile

        open_profile(console)
    loop = find_loop(given.pk)
    if loop is None:
        if given.pk is None:
            console.print("there is no loop here yet; run `make demo`, or give the PK of one")
        else:
            console.print(f"<{given.pk}> is no rm.loop that has scored anything")
        return 1
    tell(loop)
    return 0


def find_loop(pk: int | None) -> Any:
    """That loop, or the last one that has scored something; None without any."""
    from aiida import orm

    filters = {"process_type": "aiida.workflows:rm.loop"} | ({} if pk is None else {"id": pk})
    query = orm.QueryBuilder()
    query.append(orm.WorkChainNode, filters=filters, tag="loop")
    query.order_by({"loop": {"ctime": "desc"}})
    return next((node for node in query.all(flat=True) if "scored" in node.outputs), None)


def tell(loop: Any) -> None:
    """Yield per round, the best, where the best came from, and a structure to go on with."""
    from aiida import orm

    from aiida_rm import queries
    from aiida_rm.calculations.functions import extract_structure

    console.rule(f"rm.loop <{loop.pk}>, round by round")
    console.print(queries.yield_per_round(loop).to_string(index=False), soft_wrap=True)

    console.rule("the five lowest in E~ that are valid and unique")
    best = queries.best(loop, 5, rules={"valid": True, "unique": True})
    if not len(best):
        console.print("none")
        return
    shown = ["pk", "index", "formula", "energy_per_atom", "match", "spacegroup"]
    console.print(
        best[[name for name in shown if name in best]].to_string(index=False), soft_wrap=True
    )
    if not len(best):
        return

    frames, index = orm.load_node(int(best["pk"][0])), int(best["index"][0])
    console.rule("where the first of them came from")
    table = queries.lineage(frames, index)[["pk", "type", "index", "made_by", "note"]]
    console.print(table.to_string(index=False), soft_wrap=True)

    formula = frames.get_frames().formula(index)
    console.rule(f"how many structures of the composition {formula} there are in all")
    console.print(len(queries.with_composition(formula)))

    structure = extract_structure(frames, orm.Int(index))
    console.rule("the first as a StructureData, for any plugin")
    console.print(f"<{structure.pk}> {structure.get_formula()}, {structure.uuid}")


if __name__ == "__main__":
    sys.exit(main())
