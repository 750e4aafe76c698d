"""A process that perceives and checks molecules, one at a time, and may be lost to one of them.

RDKit and PoseBusters can take for ever, or fall over, on odd input; no Python code can stop them.
Here an alarm of the system ends their process, and the next molecule gets a new one. They speak
JSON, one line a message.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

import aiida_rm
from aiida_rm.engine.errors import SettingsError
from aiida_rm.engine.scoring.chemistry import bust, perceive

Array = NDArray[Any]

#: Where molecules are asked for, and RDKit or PoseBusters is not there.
REMEDY = "pip install 'aiida-rm[molecules]' there, or set 'chemistry' to auto or off"


@dataclass(frozen=True)
class Opinion:
    """What the chemist says of one molecule.

    Attributes:
        verdict: of :class:`~aiida_rm.engine.scoring.chemistry.Molecule`; or ``given up`` where
            RDKit took too long, or fell over.
        smiles: canonical; empty where there is none.
        checks: PoseBusters' by name; none where they were not asked for, or the molecule is not
            sound; those are missing that it cannot make, or that took too long.
    """

    verdict: str
    smiles: str = ""
    checks: dict[str, bool] = field(default_factory=dict)


class Chemist:
    """The other process: started when first asked, again after it was lost, ended by ``close``.

    Args:
        seconds: of processor time for the bonds of a molecule, its checks, and its energy, each.
        checks: run PoseBusters on sound ones.
    """

    def __init__(self, seconds: float, *, checks: bool) -> None:
        self.versions: dict[str, str] = {}
        self._command = [sys.executable, "-m", __name__, repr(float(seconds)), str(int(checks))]
        self._checks = checks
        self._process: subprocess.Popen[str] | None = None

    def judge(self, numbers: Array, positions: Array) -> Opinion:
        """Perceive a molecule, and check it where it is sound.

        Args:
            numbers: (N,) atomic numbers.
            positions: (N, 3) in angstrom, finite.

        Raises:
            SettingsError: RDKit or PoseBusters is missing, or cannot be used.
        """
        question = json.dumps([np.asarray(numbers).tolist(), np.asarray(positions).tolist()])
        first = self._ask(question)
        if first is None:
            return Opinion("given up")
        if not self._checks or first["verdict"] != "sound":
            return Opinion(first["verdict"], first["smiles"])
        checks: dict[str, bool] = {}
        for _ in range(2):  # the quick ones, then the energy
            passed = self._answer()
            if passed is None:
                break
            checks |= passed
        return Opinion(first["verdict"], first["smiles"], checks)

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _ask(self, question: str) -> dict[str, Any] | None:
        for _ in range(2):  # it may have died of something else since the last molecule
            process = self._process or self._start()
            assert process.stdin is not None
            try:
                process.stdin.write(question + "\n")
                process.stdin.flush()
            except BrokenPipeError:
                self.close()
                continue
            return self._answer()
        return None

    def _answer(self) -> dict[str, Any] | None:
        """The next message; None after the process is gone."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            self.close()
            return None
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            self.close()
            raise SettingsError(message["error"])
        return message

    def _start(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # With -m, this is where Python looks first.
            cwd=Path(aiida_rm.__file__).parents[1],
        )
        hello = self._answer()
        if hello is None:
            raise SettingsError(f"the process that runs RDKit does not start; {REMEDY}")
        self.versions = hello
        return self._process


def main() -> None:
    """The other side: answer until the questions end."""
    seconds, checks = float(sys.argv[1]), bool(int(sys.argv[2]))
    # What libraries print must not come between the messages.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        _say(answers, _versions(checks))
        for line in sys.stdin:
            numbers, positions = json.loads(line)
            with _alarm(seconds):
                molecule = perceive(
                    np.array(numbers, int), np.array(positions, float).reshape(-1, 3)
                )
            _say(answers, {"verdict": molecule.verdict, "smiles": molecule.smiles})
            if checks and molecule.verdict == "sound":
                for energy in (False, True):
                    with _alarm(seconds):
                        passed = bust(molecule.mol, energy=energy)
                    _say(answers, passed)
    except SettingsError as error:
        _say(answers, {"error": str(error)})


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """End this process after so much processor time: not handled, the signal does so anywhere.

    Of wall time a busy machine would take too much, and the verdicts would depend on it.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _versions(checks: bool) -> dict[str, str]:
    try:
        # Loaded now, so that the first molecule's time is not spent on it.
        from rdkit import rdBase
        from rdkit.Chem import rdDetermineBonds  # noqa: F401

        versions = {"rdkit": str(rdBase.rdkitVersion)}
        if checks:
            import posebusters

            versions["posebusters"] = str(posebusters.__version__)
    except ImportError as error:
        raise SettingsError(
            f"'chemistry' asks for what cannot be imported where the job runs ({error}); {REMEDY}"
        ) from error
    rdBase.DisableLog("rdApp.*")
    return versions


def _say(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
