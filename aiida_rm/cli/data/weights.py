"""What the groups of potentials and of training states share: nodes that are one file each."""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

from aiida_rm.cli.data.importing import twin_of
from aiida_rm.cli.groups import join

#: Bytes that one member of a zip archive may unpack to.
_LARGEST = 1 << 33


def import_files(kind: Any, sources: tuple[Path, ...], *, again: bool, **how: Any) -> list[Any]:
    """Each safetensors file of files, folders and zip archives becomes a node.

    Args:
        kind: PotentialData or TrainingStateData.
        sources: the paths.
        again: store even what is in this profile already.
        how: ``label`` (the file's name without it), ``group`` or None, ``dry_run``.

    Returns:
        ``source``, ``pk`` (None if it was not stored), ``ok``, and ``told``, a sentence.
    """
    reports = []
    for source in sources:
        if source.suffix.lower() == ".zip":
            with tempfile.TemporaryDirectory() as folder:
                reports += [
                    _import_one(kind, file, f"{source}:{name}", again, how)
                    for name, file in _unpacked(source, Path(folder))
                ]
        elif source.is_dir():
            files = sorted(source.rglob("*.safetensors"))
            reports += [_import_one(kind, file, str(file), again, how) for file in files]
        else:
            reports.append(_import_one(kind, source, str(source), again, how))
    if not reports:
        raise ValueError(f"there are no files *.safetensors in {', '.join(map(str, sources))}")
    return reports


def _import_one(kind: Any, file: Path, source: str, again: bool, how: dict[str, Any]) -> Any:
    from aiida.common.exceptions import ValidationError

    report: dict[str, Any] = {"source": source, "pk": None, "ok": False}
    try:
        with file.open("rb") as handle:  # by its path, errors would name it once more
            node = kind(handle, label=(how["label"] or file.stem)[:255])
        if how["dry_run"]:
            return report | {"ok": True, "told": "can be used; nothing was stored (--dry-run)"}
        twin = None if again else twin_of(node)
        if twin is not None:
            told = f"is here already, as <{twin}>; --again stores it once more"
            return report | {"ok": True, "told": told}
        node.store()
    except (ValueError, OSError, ValidationError) as error:
        return report | {"told": f"left out: {' '.join(str(error).split())}"}
    join(how["group"], node)
    return report | {"ok": True, "pk": node.pk, "uuid": node.uuid, "told": f"is <{node.pk}>"}


def _unpacked(source: Path, folder: Path) -> Any:
    """The safetensors members of an archive, one at a time under a name of our own."""
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"'{source}' is no zip archive: {error}") from error
    with archive:
        for member in sorted(archive.infolist(), key=lambda one: one.filename):
            if member.is_dir() or not member.filename.endswith(".safetensors"):
                continue
            if member.file_size > _LARGEST:
                raise ValueError(f"'{member.filename}' unpacks to {member.file_size} bytes")
            file = folder / PurePosixPath(member.filename).name
            with archive.open(member) as packed:
                file.write_bytes(packed.read(_LARGEST))
            yield member.filename, file
            file.unlink()


def export_file(node: Any, output: Path | None, *, overwrite: bool) -> Path:
    """Write the file of a node; into a folder under the node's own name.

    Raises:
        ValueError: it is there already.
    """
    target = output or Path(f"{node.KIND}_{node.pk}.safetensors")
    if target.is_dir():
        target = target / f"{node.KIND}_{node.pk}.safetensors"
    if target.exists() and not overwrite:
        raise ValueError(f"'{target}' exists; name another file, or add --overwrite")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".tmp")
    temporary.write_bytes(node.get_content(mode="rb"))
    temporary.replace(target)
    return target


def metrics_of(node: Any) -> list[dict[str, Any]]:
    """What the training that made a node said of each epoch.

    Raises:
        ValueError: no training of this profile made it, or it left nothing.
    """
    from aiida_rm.engine.files import METRICS

    creator = node.creator
    if creator is None or "retrieved" not in creator.outputs:
        raise ValueError(f"<{node.pk}> was imported, not trained here: it has no learning curve")
    try:
        text = creator.outputs.retrieved.base.repository.get_object_content(METRICS)
    except FileNotFoundError:
        raise ValueError(f"the job <{creator.pk}> left no {METRICS}") from None
    return [json.loads(line) for line in text.splitlines() if line.strip()]
