"""Begins the kernel of a page: in a folder of its own, with a copy of the study's profile."""

import atexit
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from IPython.core.magic import register_cell_magic

_demo = Path(os.environ["AIIDA_RM_DOCS_DEMO"])
_folder = tempfile.mkdtemp(prefix="aiida-rm-docs-")
atexit.register(shutil.rmtree, _folder, ignore_errors=True)
os.chdir(_folder)
shutil.copytree(_demo / ".demo" / ".aiida", ".aiida")
for _name in ("demo.log", "diamond.cif", "set.extxyz", ".demo/carbon.png"):
    shutil.copy(_demo / _name, ".")
_config = Path(".aiida", "config.json")
_config.write_text(_config.read_text().replace(str(_demo / ".demo"), _folder))
os.environ["AIIDA_PATH"] = _folder
for _name, _pk in json.loads((_demo / "pks.json").read_text()).items():
    os.environ[_name] = _pk
    globals()[_name] = int(_pk)


@register_cell_magic
def bash(_: str, cell: str) -> None:
    """Run the lines, show all that they print at once, and fail where one of them fails."""
    found = subprocess.run(
        ["bash", "-e", "-c", cell], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    print(found.stdout.decode("utf-8"), end="")
    found.check_returncode()
