"""Cells of the pages run at build, each page on a copy of one small study that really ran.

The study is ``examples/diamond.py`` at a small size, under ``_build/demo``; it runs again when the
package or the examples have changed. ``startup.py`` beside this file begins the kernel of a page.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ase.io
from ase.build import bulk
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "docs" / "_build"
DEMO = BUILD / "demo"
#: As `make demo`, but small: what it finds is less, the nodes have the same PKs.
SIZE = ("--protocol", "fast", "--rounds", "2", "--epochs", "4")
SHELL = "%%bash\n"


def run_study(app: Sphinx) -> None:
    """Run it, unless it is there, and say to the kernels where they are.

    Raises:
        ExtensionError: it failed.
    """
    os.environ.update(environment())
    patterns = ("aiida_rm/**/*.*", "examples/*.py", "docs/extensions/*.py")
    checksum = checksum_of(*(file for one in patterns for file in sorted(ROOT.glob(one))))
    mark = DEMO / "checksum"
    if mark.is_file() and mark.read_text() == checksum:
        return
    logging.getLogger(__name__).info("running the study that the pages show")
    shutil.rmtree(DEMO, ignore_errors=True)
    shutil.copytree(ROOT / "examples", DEMO / "examples")
    command = [sys.executable, "examples/diamond.py", *SIZE]
    found = subprocess.run(command, cwd=DEMO, capture_output=True, text=True, check=False)
    if found.returncode:
        raise ExtensionError(f"{' '.join(command)} failed:\n{found.stdout}{found.stderr}")
    (DEMO / "demo.log").write_text(found.stdout, "utf-8")
    write_datasets(DEMO)
    mark.write_text(checksum)
    app.connect("env-get-outdated", shown)


def shown(_: Sphinx, env: BuildEnvironment, *__: Any) -> list[str]:
    """The pages with cells: they are to run again."""
    files = {name: Path(env.doc2path(name)) for name in env.found_docs}
    return [
        name for name, file in files.items() if "file_format: mystnb" in file.read_text("utf-8")
    ]


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


class ShellCells(SphinxTransform):
    """Cells for the shell look like a shell."""

    default_priority = 400

    def apply(self, **_: Any) -> None:
        """Take the magic word off, and put prompts."""
        for block in self.document.findall(nodes.literal_block):
            text = block.astext()
            if not text.startswith(SHELL):
                continue
            lines = text.removeprefix(SHELL).splitlines()
            shown = "\n".join(f"$ {line}" for line in lines)
            block.rawsource = shown
            block.children = [nodes.Text(shown)]
            block["language"] = "console"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both."""
    app.connect("builder-inited", run_study)
    app.add_transform(ShellCells)
    return {"parallel_read_safe": True}
