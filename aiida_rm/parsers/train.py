"""Parser of rm.train."""

from __future__ import annotations

from pathlib import Path

from aiida import orm

from aiida_rm.data.frames import FramesData
from aiida_rm.data.potential import PotentialData
from aiida_rm.data.training_state import TrainingStateData
from aiida_rm.engine import files
from aiida_rm.engine.errors import EngineError
from aiida_rm.parsers.base import EngineParser
from aiida_rm.parsers.reading import read_metrics


class TrainParser(EngineParser):
    """Attach the potential, the learning curves, and a state when the job was cut short."""

    TASK = "train"
    MISSING = "ERROR_POTENTIAL_MISSING"

    def collect(self, folder: Path) -> str | None:
        """Attach what is valid; the potential is what a finished job must have."""
        curves = read_metrics(self.read(files.METRICS) or b"")
        if curves:
            node = orm.ArrayData()
            for name, array in curves.items():
                node.set_array(name, array)
            self.out("learning_curves", node)
        if not self.finished:
            self.can_go_on = self._attach_state(folder)
        if problem := self._attach_validation(folder / files.OUTPUT_FRAMES):
            self.logger.warning("no output `validation`: %s", problem)
        return self._attach("potential", folder / files.OUTPUT_POTENTIAL, PotentialData)

    def progress(self) -> str:
        """The epoch and step of the state."""
        if not self.can_go_on:
            return super().progress()
        state = self.outputs.state
        return f"at epoch {state.epoch}, step {state.step}"

    def _attach_validation(self, path: Path) -> str | None:
        """A training without structures for validation leaves none."""
        if not path.is_dir():
            return None
        try:
            self.out("validation", FramesData.from_folder(path))
        except (EngineError, OSError, ValueError, TypeError, EOFError) as error:
            return str(error)
        return None

    def _attach_state(self, folder: Path) -> bool:
        """Attach the last checkpoint, or the one before it where that is damaged."""
        problem = self._attach("state", folder / files.OUTPUT_STATE, TrainingStateData)
        if problem is None:
            return True
        if self._attach("state", folder / files.PREVIOUS_STATE, TrainingStateData) is not None:
            return False
        self.logger.warning("%s; taking the checkpoint before it", problem)
        return True

    def _attach(self, label: str, path: Path, kind: type[orm.SinglefileData]) -> str | None:
        if path.is_symlink() or not path.is_file():
            return f"the file '{path.name}' did not come back"
        try:
            self.out(label, kind(path))
        except (EngineError, OSError, ValueError, TypeError, KeyError) as error:
            return f"'{path.name}': {error}"
        return None
