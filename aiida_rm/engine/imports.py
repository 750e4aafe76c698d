"""Names of the user's own code: ``package.module:name``."""

from __future__ import annotations

import importlib
from typing import Any

from aiida_rm.engine.errors import SettingsError, first_line


def is_import_path(path: str) -> bool:
    """Whether a text is ``package.module:name``; nothing is imported."""
    module, _, name = path.partition(":")
    return name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def import_by_path(knob: str, path: str) -> Any:
    """What is behind ``package.module:name``.

    Args:
        knob: the setting that gave the path, for the message.
        path: as above.

    Raises:
        SettingsError: it cannot be imported.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:
        raise SettingsError(
            f"'{knob}': '{path}' cannot be imported ({first_line(error)}); it must be "
            "'package.module:name' of a package that is installed where the engine runs"
        ) from error
