"""Protocols: complete inputs under a name, as small differences in YAML files."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import yaml
from aiida import orm
from aiida.engine import ProcessBuilder
from aiida.engine.processes.ports import PortNamespace

from aiida_rm.data.frames import FramesData
from aiida_rm.data.potential import PotentialData
from aiida_rm.engine.settings import SETTINGS

_FOLDER = Path(__file__).parent
#: So many stable structures are many.
MANY = 100
#: What plain values are called.
_PLAIN = ((Mapping, "a table"), (Mapping | orm.Dict, "a table"), (Sequence, "a list"))
#: How such a node is come by.
_MAKE: dict[Any, str] = {
    FramesData: "FramesData.from_file(PATH) makes one of a file, frames_from_structures(NAME=NODE) "
    "one of StructureData",
    PotentialData: "PotentialData(PATH) makes one of a file",
    orm.AbstractCode: "orm.load_code('LABEL@COMPUTER') has it",
}
#: Texts that stand beside the user's own, unless that has this word.
_JOINED = {"custom_scheduler_commands": "gpu", "prepend_text": "MASTER_ADDR"}


class ProtocolMixin:
    """A work chain whose inputs come from ``protocols/<PROTOCOL_FILE>.yaml``.

    The file holds `default_inputs`, `default_protocol`, `protocols` (each a `description` and a
    difference), and `kinds`: further differences for what a dataset is like (:func:`kinds_of`);
    those of a protocol win.
    """

    PROTOCOL_FILE: ClassVar[str]

    @classmethod
    def get_available_protocols(cls) -> dict[str, str]:
        """Names of the protocols and what each is for."""
        protocols = _load(cls.PROTOCOL_FILE)["protocols"]
        return {name: content["description"] for name, content in protocols.items()}

    @classmethod
    def get_default_protocol(cls) -> str:
        """The protocol that is taken without a name."""
        return str(_load(cls.PROTOCOL_FILE)["default_protocol"])

    @classmethod
    def get_protocol_inputs(
        cls,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        *,
        kinds: Collection[str] = (),
    ) -> dict[str, Any]:
        """Plain inputs of a protocol.

        Args:
            protocol: its name; None takes the default one.
            overrides: inputs that replace the protocol's, nested like them.
            kinds: what the dataset is like, see :func:`kinds_of`.

        Raises:
            ValueError: there is no such protocol, or an override names no input.
        """
        content = _load(cls.PROTOCOL_FILE)
        name = protocol if protocol is not None else content["default_protocol"]
        if name not in content["protocols"]:
            known = ", ".join(content["protocols"])
            raise ValueError(f"'{name}' is no protocol of {cls.__name__}; there are {known}")
        chosen = content["protocols"][name]
        difference = {
            key: value for key, value in chosen.items() if key not in ("description", "kinds")
        }
        inputs = merge(cls._inner_inputs(name, kinds), content["default_inputs"])
        inputs = merge(inputs, difference)
        for table in (content, chosen):
            for kind in kinds:
                inputs = merge(inputs, table.get("kinds", {}).get(kind, {}))
        if overrides:
            need(overrides, Mapping, "overrides")
            ports = cls.spec().inputs  # type: ignore[attr-defined]
            check_names(ports, overrides, cls.__name__)
            inputs = merge(inputs, overrides)
        return inputs

    @classmethod
    def _inner_inputs(cls, protocol: str, kinds: Collection[str]) -> dict[str, Any]:  # noqa: ARG003
        """Inputs of the work chains inside this one, under the same protocol."""
        return {}

    @classmethod
    def _build(
        cls,
        code: orm.AbstractCode,
        inputs: Mapping[str, Any],
        options: Mapping[str, Any] | None,
        computer: orm.Computer | None,
        asked: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> ProcessBuilder:
        """A builder with these inputs, and one code and one set of options for every job.

        ``asked`` are options of single jobs by their namespace (``train.train``); the others win.
        """
        need(code, orm.AbstractCode, "code")
        need(options if options is not None else {}, Mapping, "options")
        builder: ProcessBuilder = cls.get_builder()  # type: ignore[attr-defined]
        ports = cls.spec().inputs  # type: ignore[attr-defined]
        fill(builder, inputs, ports)
        for path in job_namespaces(ports):
            namespace: Any = builder
            job_ports = ports
            for name in path:
                namespace, job_ports = namespace[name], job_ports[name]
            namespace.code = code
            place = "".join(f"{name}." for name in (*path, "metadata"))
            own = dict(options or {})
            if asked and ".".join(path) in asked:
                own = together(asked[".".join(path)], merge(options_at(inputs, path), own))
            metadata: dict[str, Any] = {"options": own}
            if computer is not None:
                metadata["computer"] = computer
            check_names(job_ports["metadata"], metadata, "metadata")
            fill(namespace.metadata, metadata, job_ports["metadata"], place)
        return builder


def kinds_of(dataset: FramesData) -> tuple[str, ...]:
    """What a dataset is like, in the words of the protocol files."""
    parents = dataset.get_frames().structure.get("parent")
    count = len(dataset) if parents is None else len(np.unique(parents))
    return kinds_by(count, molecules=dataset.pbc_kind == "molecule")


def kinds_by(count: int, *, molecules: bool) -> tuple[str, ...]:
    """`molecules`, and from :data:`MANY` structures on `many_molecules` or `many_crystals`."""
    kinds = ("molecules",) if molecules else ()
    if count >= MANY:
        kinds = (*kinds, "many_molecules" if molecules else "many_crystals")
    return kinds


def for_search(kinds: tuple[str, ...], *, committee: bool, environments: bool) -> tuple[str, ...]:
    """What a search by hops goes by, too.

    Args:
        kinds: of the dataset.
        committee: several potentials judge: `judged_molecules`.
        environments: the potential remembers its training set: `remembered_molecules`.
    """
    if "molecules" not in kinds:
        return kinds
    more = (("judged_molecules", committee), ("remembered_molecules", environments))
    return (*kinds, *(name for name, holds in more if holds))


def merge(base: Mapping[str, Any], difference: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``base`` in which the values of ``difference`` win; only tables are merged.

    None takes out what ``base`` has under that name, such as a rule or a monitor of the protocol.
    """
    merged = dict(base)
    for name, value in difference.items():
        old = merged.get(name)
        if value is None:
            merged.pop(name, None)
            continue
        if isinstance(value, orm.Dict) and isinstance(old, Mapping):
            value = value.get_dict()  # noqa: PLW2901
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[name] = merge(old, value)
        else:
            merged[name] = value
    return merged


def given(**arguments: Any) -> dict[str, Any]:
    """The arguments that are not None: no argument takes nothing out (:func:`merge`)."""
    return {name: value for name, value in arguments.items() if value is not None}


def check_names(ports: PortNamespace, inputs: Mapping[str, Any], where: str) -> None:
    """Refuse names that are no inputs.

    Raises:
        ValueError: naming the first one, and the name that comes nearest.
    """
    for name, value in inputs.items():
        if _any_name(ports):
            continue
        if name not in ports:
            raise ValueError(
                f"'{name}' is no input of {where}; {_meant(ports, where, name, value)}"
            )
        port = ports[name]
        if isinstance(port, PortNamespace) and isinstance(value, Mapping):
            check_names(port, value, f"{where}.{name}")
        elif isinstance(port, PortNamespace) and (value is not None or _holds_job(port)):
            raise ValueError(f"'{name}' of {where} must be a table of inputs, is {value!r}")


def _meant(ports: PortNamespace, where: str, name: Any, value: Any) -> str:
    """What to write for a name that is no input: the place of such a knob, or a name like it."""
    outer = where.split(".")[1:]
    jobs = [(*outer, *path) for path in job_namespaces(ports)]
    if name == "settings":
        places = [".".join((*path, "settings")) for path in jobs]
    elif isinstance(value, Mapping) and "settings" in ports and "settings" in value:
        places = [".".join((*outer, "settings"))]  # a level less
    else:
        places = [
            ".".join((*path, "settings", str(name)))
            for path in jobs
            if path[-1] in SETTINGS and name in {item.name for item in fields(SETTINGS[path[-1]])}
        ]
    close = places or difflib.get_close_matches(str(name), list(ports), n=1)
    if not close:
        return f"there are {', '.join(ports)}"
    return f"did you mean {' or '.join(map(repr, close))}?"


def need(value: Any, kind: Any, name: str) -> None:
    """Refuse an argument of a wrong type, before anything is asked of it.

    Raises:
        TypeError: naming the argument and what it should be.
    """
    if not isinstance(value, kind):
        plain = next((text for wanted, text in _PLAIN if kind == wanted), "")
        wanted = plain or f"a stored or new {kind.__name__} node"
        remedy = f"; {_MAKE[kind]}" if kind in _MAKE else ""
        raise TypeError(f"`{name}` must be {wanted}, is a {type(value).__name__}{remedy}")


def fill(namespace: Any, inputs: Mapping[str, Any], ports: PortNamespace, where: str = "") -> None:
    """Put plain values into a builder; those whose port wants a node become one.

    Raises:
        ValueError: a value is refused; the message has its path, such as ``train.settings``.
    """
    for name, value in inputs.items():
        if value is None:
            continue
        port = ports[name]
        if name == "monitors":
            _check_monitors(value, f"{where}{name}")
        if isinstance(port, PortNamespace) and _any_name(port):
            # A table is a node where such nodes are wanted (monitors), else inputs (referees).
            tables = orm.Dict in _valid_types(port)
            nodes = {
                key: _as_port_wants(port, one) if tables or not isinstance(one, Mapping) else one
                for key, one in value.items()
            }
            setattr(namespace, name, nodes)
        elif isinstance(port, PortNamespace) and isinstance(value, Mapping):
            fill(namespace[name], value, port, f"{where}{name}.")
        else:
            try:
                setattr(namespace, name, _as_port_wants(port, value))
            except (ValueError, TypeError) as error:
                told = str(error).removeprefix("invalid attribute value ")
                told = told.removeprefix(f"`{name}`: ")
                if "Got '<class" in told:  # plumpy tells types as Python writes them
                    types = [kind.__name__ for kind in _valid_types(port) if kind is not type(None)]
                    told = f"must be of type {' or '.join(types)}, is {value!r}"
                raise ValueError(f"`{where}{name}`: {told}") from error


def _check_monitors(monitors: Mapping[str, Any], where: str) -> None:
    """Refuse what an override makes a monitor that is none, as a misspelt name does."""
    need(monitors, Mapping, where)
    for name, one in monitors.items():
        need(one, Mapping | orm.Dict, f"{where}.{name}")
    whole = [name for name, one in monitors.items() if "entry_point" in one]
    for name in monitors.keys() - whole:
        close = difflib.get_close_matches(name, whole, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise ValueError(
            f"`{where}.{name}` has no `entry_point`; {hint}A monitor of your own wants one, such "
            "as rm.silent"
        )


def job_namespaces(ports: PortNamespace, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of the namespaces that hold the inputs of a job."""
    if "code" in ports:
        yield path
    for name, port in ports.items():
        if isinstance(port, PortNamespace):
            yield from job_namespaces(port, (*path, name))


def _holds_job(ports: PortNamespace) -> bool:
    """Whether they are those of a stage, which nothing can take out."""
    return next(job_namespaces(ports), None) is not None


def options_at(inputs: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any]:
    """The options among the inputs of a job."""
    table: Any = inputs
    for name in (*path, "metadata", "options"):
        table = table.get(name) or {}
    options: Mapping[str, Any] = table
    return options


def together(asked: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Options in which the user's own win over what is asked for them.

    Tables are merged; texts stand beside each other unless the user's says the same thing.
    """
    merged = merge(asked, own)
    for name, word in _JOINED.items():
        if name in asked and own.get(name) and word not in str(own[name]):
            merged[name] = f"{asked[name]}\n{own[name]}"
    return merged


def _any_name(ports: PortNamespace) -> bool:
    """Whether names are the user's choice; that of a job says dynamic, too, but has its ports."""
    return bool(ports.dynamic) and not len(ports)


def _valid_types(port: Any) -> tuple[Any, ...]:
    return port.valid_type if isinstance(port.valid_type, tuple) else (port.valid_type,)


def _as_port_wants(port: Any, value: Any) -> Any:
    kinds = _valid_types(port)
    wants_node = any(isinstance(kind, type) and issubclass(kind, orm.Node) for kind in kinds)
    return as_node(value) if wants_node else value


def as_node(value: Any) -> Any:
    """A node as it is, and a plain value as a node.

    Raises:
        TypeError: there is no node for values of this type.
    """
    return value if isinstance(value, orm.Node) else orm.to_aiida_type(value)


def _load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text("utf-8"))
    return content
