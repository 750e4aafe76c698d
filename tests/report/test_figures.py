"""Pictures: written, in the format asked for, with the titles in them."""

from __future__ import annotations

from pathlib import Path

from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.scoring.known import carbon_allotropes
from aiida_rm.report.figures import draw_candidates


def test_a_row_for_each_structure(tmp_path: Path, diamond_frames: Frames) -> None:
    known = carbon_allotropes()
    target = tmp_path / "carbon.svg"
    draw_candidates(known, [1, 4], ["first <1>", "second <2>"], diamond_frames, "diamond", target)
    text = target.read_text()
    assert text.count("<svg") == 1
    assert text.count('id="axes_') == 4
    one = tmp_path / "one.png"
    draw_candidates(known, [0], ["only"], diamond_frames, "diamond", one)
    assert one.read_bytes().startswith(b"\x89PNG")


def test_molecules_are_drawn_too(
    tmp_path: Path, diamond_frames: Frames, molecule_frames: Frames
) -> None:
    both = concatenate([diamond_frames.without_labels(), molecule_frames.without_labels()])
    target = tmp_path / "both.png"
    draw_candidates(both, range(3), ["a", "b", "c"], diamond_frames, "diamond", target)
    assert target.stat().st_size > 1000
