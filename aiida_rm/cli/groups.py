"""The option ``--group``: a new one is made when something joins it, not before."""

from __future__ import annotations

from typing import Any

import click
from aiida.cmdline.params import types


class _GroupType(types.GroupParamType):
    """A group, or the label of one that is not there yet."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            if not str(value).strip():
                raise
            return str(value)


GROUP = click.option("-G", "--group", type=_GroupType(), help="Add it to this, new or not.")


def join(group: Any, node: Any) -> None:
    """Add a node to what the option gave: a group, the label of a new one, or None."""
    from aiida import orm

    if isinstance(group, str):
        group, _ = orm.Group.collection.get_or_create(group)
    if group is not None:
        group.add_nodes([node])
