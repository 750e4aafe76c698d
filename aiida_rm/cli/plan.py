"""From a settings file and options to a builder, and what it is going to do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from aiida import orm

from aiida_rm.cli.codes import known_codes
from aiida_rm.cli.command import RefusalError
from aiida_rm.cli.output import counted
from aiida_rm.data.frames import FramesData
from aiida_rm.data.potential import PotentialData
from aiida_rm.data.safetensors_header import HeaderError
from aiida_rm.engine.settings import SETTINGS, parse_settings, to_plain

#: Nodes that each process takes besides the code, by name; the first one it must have.
NODES: dict[str, dict[str, type]] = {
    "train": {"frames": FramesData, "potential": PotentialData},
    "generate": {"potential": PotentialData, "starts": FramesData},
    "validate": {
        "frames": FramesData,
        "references": FramesData,
        "known": FramesData,
        "null": FramesData,
    },
    "loop": {"dataset": FramesData, "known": FramesData, "starts": FramesData},
}
#: What else each takes.
_MORE = {
    "train": ("gpus", "nodes"),
    "generate": ("gpus", "nodes", "mode", "committee"),
    "validate": ("referees",),
    "loop": ("gpus", "nodes", "referees"),
}
_COMMON = ("code", "computer", "protocol", "options", "overrides")


def read_settings(file: Path | None, kind: str) -> dict[str, Any]:
    """The table of a settings file (YAML).

    Raises:
        ValueError: it cannot be read, or names what the process does not take.
    """
    import yaml

    if file is None:
        return {}
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RefusalError(f"'{file}' cannot be read as YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise RefusalError(f"'{file}' must be a table, with keys such as overrides and options")
    known = (*_COMMON, *NODES[kind], *_MORE[kind])
    for name in content:
        if name not in known:
            raise RefusalError(
                f"'{name}' in '{file}' is no key for {kind}; there are {', '.join(known)}. "
                "Inputs of the process stand under `overrides`"
            )
    for name in ("options", "overrides", "referees"):
        if content.get(name) is not None and not isinstance(content[name], dict):
            raise RefusalError(f"`{name}` in '{file}' must be a table, is {content[name]!r}")
    return {name: value for name, value in content.items() if value is not None}


def put(table: dict[str, Any], path: str, value: Any) -> None:
    """Set ``a.b.c`` in nested tables.

    Raises:
        ValueError: something on the way is no table.
    """
    *way, last = path.split(".")
    for name in way:
        if table.get(name) is None:
            table[name] = {}
        table = table[name]
        if not isinstance(table, dict):
            raise RefusalError(f"'{name}' in '{path}' is no table of inputs")
    table[last] = value


def make_builder(kind: str, asked: Mapping[str, Any]) -> Any:
    """A builder of the work chain.

    Args:
        kind: train, generate, validate or loop.
        asked: what :func:`read_settings` knows; nodes as PK, UUID or label, sets of structures
            and potentials also as files, which are not stored: the submission does that.

    Raises:
        ValueError: something is missing, unknown, or refused by the process.
    """
    from aiida.plugins import WorkflowFactory

    given = dict(asked)
    if not given.get("code"):
        raise RefusalError(f"which code? --code LABEL@COMPUTER; {_known_codes()}")
    arguments: dict[str, Any] = {"code": _load(given.pop("code"), orm.AbstractCode, "code")}
    names = list(NODES[kind])
    files: dict[Path, Any] = {}
    if not given.get(names[0]):
        raise RefusalError(f"--{names[0]} is missing: a file, or the PK, UUID or label of a node")
    for name in names:
        value = given.pop(name, None)
        if value is not None:
            arguments[name] = _node(value, NODES[kind][name], name, files)
    if given.get("computer"):
        arguments["computer"] = orm.load_computer(given.pop("computer"))
    if given.get("committee"):
        arguments["committee"] = _committee(given.pop("committee"), files)
    if given.get("referees"):
        arguments["referees"] = _referees(given.pop("referees"), files)
    arguments |= {name: value for name, value in given.items() if value is not None}
    process: Any = WorkflowFactory(f"rm.{kind}")
    return process.get_builder_from_protocol(**arguments)


def problem(builder: Any) -> str:
    """Why the process would refuse these inputs, or nothing."""
    spec = builder.process_class.spec()
    found = spec.inputs.validate(spec.inputs.pre_process(builder._inputs(prune=True)))
    return "" if found is None else str(getattr(found, "message", found)).strip()


def remark(kind: str, builder: Any) -> str:
    """What to bear in mind with inputs that are not wrong, or nothing."""
    if kind not in ("train", "loop"):
        return ""
    name, inputs = ("dataset", builder) if kind == "loop" else ("frames", builder.train)
    if inputs[name].pbc_kind != "mixed":
        return ""
    made = "; crystals alone are generated" if kind == "loop" else ""
    return (
        f"`{name}` mixes molecules and crystals: one potential learns both{made}. For two "
        "potentials, import them as two sets."
    )


def plan_of(builder: Any) -> dict[str, Any]:
    """All inputs as plain values: settings complete, nodes as ``<pk> label``."""
    return plan_of_inputs(builder._inputs(prune=True))


def plan_of_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The same of the inputs of a process that ran."""
    plan: dict[str, Any] = _plain(inputs, ())
    return plan


def settings_of(inputs: Mapping[str, Any], task: str) -> Any:
    """The complete settings of a task among nested inputs, as the engine's dataclass."""
    for name, value in inputs.items():
        if isinstance(value, Mapping) and name != "referees":
            if name == task and "code" in value:
                return parse_settings(SETTINGS[task], _values(value.get("settings")))
            found = settings_of(value, task)
            if found is not None:
                return found
    return None


def brief(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The plan with those settings alone that are not the default."""
    short: dict[str, Any] = {}
    for name, value in plan.items():
        task = SETTINGS.get(name)
        if isinstance(value, Mapping) and name != "referees":  # whose names are the user's
            part = brief(value)
            if task is not None and isinstance(value.get("settings"), Mapping):
                default = to_plain(task())
                told = value["settings"].items()
                part["settings"] = {key: item for key, item in told if item != default[key]}
            short[name] = part
        else:
            short[name] = value
    return short


def _plain(value: Any, path: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        table = {name: _plain(item, (*path, name)) for name, item in value.items()}
        return {name: item for name, item in table.items() if item is not None and item != {}}
    if isinstance(value, orm.Dict):
        named = len(path) > 1 and path[-1] == "settings" and "referees" not in path
        task = SETTINGS.get(path[-2]) if named else None
        return to_plain(parse_settings(task, value.get_dict())) if task else value.get_dict()
    if isinstance(value, orm.List):
        return value.get_list()
    if isinstance(value, orm.BaseType):
        return value.value
    return _named(value) if isinstance(value, orm.Node | orm.Computer) else value


def _named(node: Any) -> str:
    """How a node is told to people."""
    if isinstance(node, orm.Computer):
        return str(node.label)
    if isinstance(node, orm.AbstractCode):
        return f"<{node.pk}> {node.full_label}"
    where = f"<{node.pk}>" if node.is_stored else "(new)"
    if isinstance(node, FramesData):
        return f"{where} {node.label or 'structures'} ({counted(len(node), 'structure')})"
    return f"{where} {node.label}".strip()


def _values(settings: Any) -> dict[str, Any]:
    if settings is None:
        return {}
    values: dict[str, Any] = settings.get_dict() if isinstance(settings, orm.Dict) else settings
    return values


def _node(value: Any, kind: type, name: str, files: dict[Path, Any]) -> Any:
    """A node that is there, or one of a file; ``files`` has those that were read already."""
    path = Path(str(value))
    of_file = kind in (FramesData, PotentialData)
    if of_file and str(value) and not str(value).isdigit() and path.exists():
        if path not in files:
            files[path] = _read(path, kind, name)
        return files[path]
    return _load(value, kind, name)


def _read(path: Path, kind: type, name: str) -> Any:
    """What a file holds: the node that holds the same, or a new one.

    Raises:
        RefusalError: it holds no potential.
    """
    from aiida_rm.cli.data.importing import twin_of

    if kind is FramesData:
        node: Any = FramesData.from_file(path, label=path.name[:255])
    else:
        try:
            node = PotentialData(path, label=path.stem[:255])
        except (OSError, HeaderError) as error:
            raise RefusalError(f"`{name}`: {error}") from error
    twin = twin_of(node)
    return node if twin is None else orm.load_node(twin)


def _load(value: Any, kind: Any, name: str) -> Any:
    """A node by PK, UUID or label.

    Raises:
        RefusalError: there is none, there are several, or it is of another kind.
    """
    from aiida.common.exceptions import MultipleObjectsError, NotExistent

    if not str(value).strip():
        raise RefusalError(f"`{name}` is empty; give it a value, or leave it out")
    is_code = kind is orm.AbstractCode
    try:
        node = orm.load_code(value) if is_code else _by_label(value, kind) or orm.load_node(value)
    except MultipleObjectsError:
        more = f"or LABEL@COMPUTER; {_known_codes()}" if is_code else "of one"
        message = f"`{name}`: several nodes are called '{value}'; give the PK {more}"
        raise RefusalError(message) from None
    except (NotExistent, ValueError):
        if is_code:
            message = f"there is no code '{value}'; {_known_codes()}"
        elif kind is FramesData:
            message = (
                f"there is no file or node '{value}'; `verdi data rm.frames list` has the nodes"
            )
        else:
            message = (
                f"there is no file or node '{value}'; `verdi data rm.potential list` has the nodes"
            )
        raise RefusalError(f"`{name}`: {message}") from None
    if not isinstance(node, kind):
        found = type(node).__name__
        raise RefusalError(
            f"`{name}` must be a {kind.__name__}; <{node.pk}> is no such, but {found}"
        )
    if is_code:
        _check_code(node, name)
    return node


def _check_code(code: Any, name: str) -> None:
    """Refuse a code that no job could run.

    Raises:
        RefusalError: its computer is not configured, or it is of another plugin.
    """
    computer = code.computer
    if computer is not None and not computer.is_configured:
        raise RefusalError(
            f"`{name}`: the computer of {code.full_label} is not configured; "
            f"`verdi computer configure {computer.transport_type} {quote(computer.label)}`"
        )
    plugin = code.default_calc_job_plugin
    if name == "code" and plugin and not plugin.startswith("rm."):
        raise RefusalError(
            f"`code`: {code.full_label} is of the plugin {plugin}; give one of aiida-rm-engine; "
            f"{_known_codes()}"
        )


def _by_label(value: Any, kind: Any) -> Any:
    """The node of this label; None for a number, or where there is none."""
    from aiida.common.exceptions import MultipleObjectsError

    if str(value).isdigit():
        return None
    found = orm.QueryBuilder().append(kind, filters={"label": str(value)}).limit(2).all(flat=True)
    if len(found) > 1:
        raise MultipleObjectsError
    return found[0] if found else None


def _committee(members: Any, files: dict[Path, Any]) -> Any:
    """Potentials by name of a table of them, or a list of a list."""
    if isinstance(members, list | tuple):
        return [_node(one, PotentialData, "committee", files) for one in members]
    if not isinstance(members, Mapping):
        raise RefusalError("`committee` must be a list of potentials, or a table of them by name")
    return {
        str(name): _node(one, PotentialData, f"committee.{name}", files)
        for name, one in members.items()
    }


def _referees(table: Any, files: dict[Path, Any]) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        raise RefusalError("`referees` must be a table by name, each with `code`")
    loaded: dict[str, Any] = {}
    for name, parts in table.items():
        if not isinstance(parts, Mapping):
            raise RefusalError(f"the referee '{name}' must be a table with `code`")
        own = {part: value for part, value in parts.items() if value is not None}
        if "code" in own:
            own["code"] = _load(own["code"], orm.AbstractCode, f"referees.{name}.code")
        if "references" in own:
            where = f"referees.{name}.references"
            own["references"] = _node(own["references"], FramesData, where, files)
        loaded[str(name)] = own
    return loaded


def _known_codes() -> str:
    names = known_codes()
    return (
        f"there are {', '.join(names)}" if names else "there are none; `aiida-rm setup` makes one"
    )
