"""Sphinx: pages in Markdown; processes, settings and commands from the code, outputs from a run."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))
# The directives of AiiDA want a profile; this one is empty and forgotten.
os.environ["AIIDA_PATH"] = tempfile.mkdtemp(prefix="aiida-rm-docs-")

from aiida.manage.configuration import load_profile
from aiida.storage.sqlite_temp import SqliteTempBackend

from aiida_rm import __version__

load_profile(SqliteTempBackend.create_profile("docs", debug=False), allow_switch=True)

project = "aiida-rm"
author = "The aiida-rm developers"
project_copyright = author
release = version = __version__

extensions = [
    "aiida.sphinxext",
    "executed",
    "knobs",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
# A cell or command that fails is a warning, and so ends the build of `make docs`.
nb_execution_mode = "force"
nb_execution_show_tb = True
nb_execution_timeout = 300
nb_merge_streams = True
exclude_patterns = ["_build"]
# What AiiDA itself documents.
nitpicky = False
autodoc_typehints = "description"
autodoc_member_order = "bysource"
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = False

html_theme = "sphinx_book_theme"
html_title = f"aiida-rm {__version__}"
html_theme_options = {"show_toc_level": 2, "use_download_button": False}
html_static_path = ["_static"]
html_css_files = ["wide.css"]
