"""Cells of the pages run at build, each page on a copy of one small study that really ran.

The study is ``examples/diamond.py`` at a small size, under ``_build/demo``; it runs again when the
package or the examples have changed. ``startup.py`` beside this file begins the kernel of a page.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
from ase.build import bulk
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "docs" / "_build"
DEMO = BUILD / "demo"
#: As `make demo`, but small.
SIZE = ("--protocol", "fast", "--rounds", "2", "--epochs", "4")
SHELL = "%%bash\n"
CELLS = "file_format: mystnb"
#: PKs that cells may name, and where the demo tells them: the loop, and of its last round the
#: structures, the potential and the best structure.
PKS = {
    "LOOP": r"process status (\d+)",
    "FRAMES": r"rm\.frames show (\d+)",
    "POTENTIAL": r"rm\.potential show (\d+)",
    "STRUCTURE": r"lowest E~ first[^<]*<(\d+)>",
}


def begin(app: Sphinx) -> None:
    """Start the study, unless it is there, and say to the kernels where they are."""
    os.environ.update(environment())
    patterns = ("aiida_rm/**/*.*", "examples/*.py", "docs/extensions/*.py")
    checksum = checksum_of(*(file for one in patterns for file in sorted(ROOT.glob(one))))
    mark = DEMO / "checksum"
    if mark.is_file() and mark.read_text() == checksum:
        return
    shutil.rmtree(DEMO, ignore_errors=True)
    shutil.copytree(ROOT / "examples", DEMO / "examples")
    write_datasets(DEMO)
    with (DEMO / "demo.log").open("w") as log:
        study = subprocess.Popen(
            [sys.executable, "examples/diamond.py", *SIZE], cwd=DEMO, stdout=log, stderr=log
        )

    def wait(_: Sphinx, __: str, source: list[str]) -> None:
        if CELLS not in source[0]:
            return
        failed = study.wait()
        told = (DEMO / "demo.log").read_text("utf-8")
        found = {name: re.search(text, told) for name, text in PKS.items()}
        if failed or not all(found.values()):
            raise ExtensionError(f"the study of the pages failed:\n{told}")
        pks = {name: match[1] for name, match in found.items() if match}
        (DEMO / "pks.json").write_text(json.dumps(pks))
        mark.write_text(checksum)

    app.connect("env-get-outdated", lambda _, env, *__: [*filter(has_cells(env), env.found_docs)])
    app.connect("source-read", wait)
    app.connect("build-finished", lambda *_: study.poll() is None and study.terminate())


def has_cells(env: BuildEnvironment) -> Callable[[str], bool]:
    """Whether a page has cells, by its name."""
    return lambda name: CELLS in Path(env.doc2path(name)).read_text("utf-8")


def put_last(_: Sphinx, env: BuildEnvironment, names: list[str]) -> None:
    """Read the pages with cells last: by then the study may have ended."""
    names.sort(key=has_cells(env))


def write_datasets(folder: Path) -> None:
    """One diamond, and a set with a structure that is there twice and one that is cut short."""
    diamond = bulk("C", "diamond", a=3.567)
    ase.io.write(folder / "diamond.cif", diamond)
    cells = [bulk("C", "diamond", a=length) for length in (3.4, 3.5, 3.6, 3.7)]
    file = folder / "set.extxyz"
    ase.io.write(file, [*cells, cells[0], diamond])
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def environment() -> dict[str, str]:
    """What the study and the cells run in: this Python, wide tables, nothing of the user's."""
    return {
        "COLUMNS": "110",
        "IPYTHONDIR": str(ipython()),
        "JUPYTER_CONFIG_DIR": str(BUILD / "jupyter"),
        "JUPYTER_DATA_DIR": str(BUILD / "jupyter"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_RUNTIME_DIR": str(BUILD / "jupyter"),
        "OMP_NUM_THREADS": "1",
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))).rstrip(":"),
        "PYTHONWARNINGS": "ignore",
        "AIIDA_RM_DOCS_DEMO": str(DEMO),
    }


def ipython() -> Path:
    """A folder of IPython whose startup is ours, and that speaks of errors alone."""
    folder = BUILD / "ipython"
    profile = folder / "profile_default"
    (profile / "startup").mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).with_name("startup.py"), profile / "startup")
    (profile / "ipython_kernel_config.py").write_text("get_config().IPKernelApp.log_level = 40\n")
    return folder


def checksum_of(*files: Path) -> str:
    """SHA-256 of their contents and names."""
    digest = hashlib.sha256(repr(SIZE).encode())
    for file in files:
        if "__pycache__" not in file.parts and file.is_file():
            digest.update(str(file.relative_to(ROOT)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def with_pks(text: str) -> str:
    """With numbers for the names of PKs."""
    pks = json.loads((DEMO / "pks.json").read_text())
    return re.sub(rf"\$?\b({'|'.join(pks)})\b", lambda name: pks[name[1]], text)


class Cells(SphinxTransform):
    """Cells for the shell look like a shell, and PKs are numbers."""

    default_priority = 400

    def apply(self, **_: Any) -> None:
        """Take the magic word off, put prompts, and PKs for their names."""
        for block in self.document.findall(nodes.literal_block):
            if "cell_input" not in block.parent.get("classes", ()):
                continue
            text = with_pks(block.astext())
            if text.startswith(SHELL):
                lines = text.removeprefix(SHELL).splitlines()
                text = "\n".join(f"$ {line}" for line in lines)
                block["language"] = "console"
            block.rawsource = text
            block.children = [nodes.Text(text)]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register all of this."""
    app.connect("builder-inited", begin)
    app.connect("env-before-read-docs", put_last)
    app.add_transform(Cells)
    return {"parallel_read_safe": True}
