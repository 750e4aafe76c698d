"""The commands in the docs exist, and take the options that they are given there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from aiida_rm.cli import aiida_rm
from aiida_rm.cli.data.frames import frames
from aiida_rm.cli.data.potential import potential
from aiida_rm.cli.data.training_state import training_state

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GROUPS = {
    "aiida-rm": aiida_rm,
    "verdi data rm.frames": frames,
    "verdi data rm.potential": potential,
    "verdi data rm.training_state": training_state,
}
#: Of Markdown, code in blocks and between the lines.
_LINES = re.compile(r"^ *((?:aiida-rm|verdi data rm\.) ?.*)$", re.MULTILINE)
_INLINE = re.compile(r"`((?:aiida-rm|verdi data rm\.)[ a-z_.]* [^`]+)`")


def group_of(line: str) -> str | None:
    """The group whose command it is; none of `aiida-rm-engine`, which has tests of its own."""
    return next((one for one in GROUPS if line == one or line.startswith(f"{one} ")), None)


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        blocks = "".join(text.split("```")[1::2])
        lines = [*_LINES.findall(blocks), *_INLINE.findall(text)]
        found += [(page.name, " ".join(line.split())) for line in lines]
    return sorted({(page, line) for page, line in found if group_of(line)})


def test_there_are_some() -> None:
    assert len(commands()) > 30


@pytest.mark.parametrize(("page", "line"), commands())
def test_command(page: str, line: str) -> None:
    start = group_of(line)
    assert start is not None
    command: click.Command = GROUPS[start]
    words = shlex.split(line.removeprefix(start), comments=True)
    context = click.Context(command)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        names = words.pop(0).split("|")  # launch train|generate
        for name in names:
            assert name in command.list_commands(context), f"{page}: {line}"
        command = command.commands[names[0]]
    known = {text for one in command.params for text in (*one.opts, *one.secondary_opts)}
    known |= {"--help", "--debug", "--json", "-v"}
    for word in words:
        option = word.strip("[],").partition("=")[0]
        if re.match(r"--?[a-z]", option):
            assert option in known, f"{page}: {line}: {option}"
