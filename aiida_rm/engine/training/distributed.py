"""Several processes that train together: who is who, sums over all, and one word when one fails.

Processes are started by torchrun, mpirun or srun; their environment says how many there are. The
environment is read without torch, so that only the first process ever touches the job's files.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiida_rm.engine.errors import EngineError, SettingsError, by_code

if TYPE_CHECKING:
    import torch

#: Seconds to wait for the others before giving up.
PATIENCE = 900.0
#: Names of rank, size and rank on the machine; a launcher inside another comes first.
_LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
)
#: What tells one job from another on the same machine.
_JOBS = ("SLURM_JOB_ID", "SLURM_STEP_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID", "PMIX_NAMESPACE")
_FAILURE = "failure"
#: Room for a word that all agree on.
_LETTERS = 64


@dataclass(frozen=True)
class Place:
    """One process among those of a job.

    Attributes:
        rank: 0 to size - 1; 0 alone writes files.
        size: number of processes.
        local_rank: number on its machine, which picks the GPU.
        address: machine of process 0.
        port: where it listens.
        job: what tells it from others that listen on the same machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    address: str = "localhost"
    port: int = 29500
    job: str = ""


def find_place(environment: Mapping[str, str], folder: Path) -> Place:
    """The place of this process by torchrun's variables, Open MPI's, Hydra's or SLURM's.

    Without any of them it is alone. ``MASTER_ADDR`` and ``MASTER_PORT`` may say where process 0
    listens; by default on the first machine of a SLURM job, else on this one, at a port that
    follows from the job and its folder.

    Raises:
        SettingsError: the variables are no whole numbers, or the machines are several and
            nothing says which is the first.
    """
    names = next((n for n in _LAUNCHERS if n[0] in environment and n[1] in environment), None)
    # In a batch script, SLURM counts all tasks of the job although it started only one.
    if names is None or ("SLURM_PROCID" in names and "SLURM_STEP_ID" not in environment):
        return Place()
    try:
        rank, size = int(environment[names[0]]), int(environment[names[1]])
        local = int(environment.get(names[2], rank))
        job = ":".join([*(environment.get(name, "") for name in _JOBS), str(folder)])
        derived = 20_000 + zlib.crc32(job.encode()) % 12_000
        port = int(environment.get("MASTER_PORT", derived))
    except ValueError as error:
        raise SettingsError(
            f"the environment names this process wrongly ({', '.join(names)}): {error}"
        ) from error
    if not 0 <= rank < size:
        raise SettingsError(f"'{names[0]}' is {rank} of {size} processes; mend the launcher")
    if size == 1:
        return Place()
    return Place(rank, size, local, _first_machine(environment, size), port, job)


def _first_machine(environment: Mapping[str, str], size: int) -> str:
    if "MASTER_ADDR" in environment:
        return environment["MASTER_ADDR"]
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    if nodes:
        return first_host(nodes)
    here = environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") or environment.get("MPI_LOCALNRANKS")
    if here is not None and here.isdigit() and int(here) < size:
        raise SettingsError(
            "the processes run on several machines; set MASTER_ADDR to the first one's name in "
            "the prepend text of the job"
        )
    return "localhost"


def first_host(nodes: str) -> str:
    """The first name of a SLURM list such as ``gpu[03-05,9],cpu1``: ``gpu03``."""
    first = re.match(r"([^,\[]*)(?:\[([0-9]+)[^\]]*\]([^,\[]*))?", nodes)
    assert first is not None  # every part may be empty
    return "".join(part or "" for part in first.groups())


class Team:
    """The processes of one training. Alone, nothing is ever sent."""

    def __init__(self, place: Place | None = None) -> None:
        self.place = place or Place()
        self.rank, self.size = self.place.rank, self.place.size
        self._store: Any = None

    @property
    def leads(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def join(self, device: str) -> None:
        """Meet the others; on GPUs each process takes that of its local rank.

        Args:
            device: the setting ``device``.

        Raises:
            EngineError: the others did not come.
        """
        if self.size == 1:
            return
        import torch
        import torch.distributed as dist
        from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

        graphics = device != "cpu" and torch.cuda.is_available()
        own = None
        if graphics:
            own = torch.device("cuda", self.place.local_rank % torch.cuda.device_count())
            torch.cuda.set_device(own)
        # Longer than ours: NCCL ends a process that waits so long before it can say why.
        wait = timedelta(seconds=PATIENCE + 120)
        try:
            server = TCPStore(
                self.place.address,
                self.place.port,
                self.size,
                # torchrun's agent listens already.
                is_master=self.leads and not _agent_listens(),
                timeout=wait,
                # Whoever comes may be of another job; the group below waits for its own.
                wait_for_workers=False,
            )
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            self._store = PrefixStore(f"aiida-rm/{self.place.job}/{attempt}", server)
            if own is not None and torch.version.cuda:  # AMD's may all have the same name
                self._check_gpus(str(torch.cuda.get_device_properties(own).uuid))
            dist.init_process_group(
                "nccl" if graphics else "gloo",
                store=PrefixStore("group", self._store),
                rank=self.rank,
                world_size=self.size,
                timeout=wait,
                # NCCL connects now: at the first sum it would wait for ever for one that failed.
                device_id=own,
            )
        except (RuntimeError, ValueError) as error:
            raise EngineError(
                f"process {self.rank} of {self.size} could not meet the others at "
                f"{self.place.address}:{self.place.port} ({_line(error)}); set MASTER_ADDR and "
                "MASTER_PORT, or start one process"
            ) from error

    def _check_gpus(self, own: str) -> None:
        """Whether each process has a GPU of its own, as NCCL wants it.

        Raises:
            SettingsError: two have the same; all processes say so.
        """
        self._store.set(f"gpu/{self.rank}", own)
        gpus = [self._store.get(f"gpu/{rank}") for rank in range(self.size)]
        if len(set(gpus)) < self.size:
            raise SettingsError(
                f"{self.size} processes found {len(set(gpus))} different GPUs; start as many "
                "processes as there are GPUs, or set 'device' to 'cpu'"
            )

    def leave(self) -> None:
        """End the connections; nobody goes before all have come here."""
        if self._store is None:
            return
        import torch.distributed as dist

        self.sum([0.0])
        dist.destroy_process_group()
        self._store = None

    def sum(self, values: Iterable[float]) -> list[float]:
        """Sums over all processes, of as many numbers on each, in float64.

        Raises:
            EngineError: another process failed.
        """
        numbers = list(values)
        if self.size == 1:
            return numbers
        import torch

        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        flat = torch.tensor(numbers, dtype=torch.float64, device=device)
        self._reduce(flat)
        return [float(value) for value in flat.tolist()]

    def sum_gradients(
        self, weights: Sequence[torch.Tensor], more: Iterable[float | torch.Tensor]
    ) -> list[float]:
        """Replace all gradients by their sums over the processes; the same sums of ``more``.

        Everything goes in one message.

        Raises:
            EngineError: another process failed.
        """
        numbers = list(more)
        if self.size == 1:
            return [float(value) for value in numbers]
        import torch

        parts = [
            (torch.zeros_like(w) if w.grad is None else w.grad).detach().flatten() for w in weights
        ]
        tail = torch.stack([torch.as_tensor(v).to(parts[0]).reshape(()) for v in numbers])
        flat = torch.cat([*parts, tail])
        self._reduce(flat)
        begin = 0
        for weight in weights:
            weight.grad = flat[begin : begin + weight.numel()].view_as(weight)
            begin += weight.numel()
        return [float(value) for value in flat[begin:].tolist()]

    def agree(self, word: str | None) -> str | None:
        """The word of the first process that has one, of at most 64 letters."""
        if self.size == 1:
            return word
        table = [0.0] * (_LETTERS * self.size)
        own = (word or "").encode("ascii", "replace")[:_LETTERS]
        table[self.rank * _LETTERS : self.rank * _LETTERS + len(own)] = [float(c) for c in own]
        table = self.sum(table)
        for rank in range(self.size):
            codes = table[rank * _LETTERS : (rank + 1) * _LETTERS]
            if codes[0]:
                return bytes(int(code) for code in codes if code).decode("ascii")
        return None

    def share(self, sizes: Any) -> Any:
        """(S,) whether a structure of a batch is for this process; sizes in atoms, cut evenly."""
        import numpy as np

        sizes = np.asarray(sizes)
        middles = np.cumsum(sizes) - sizes / 2
        return np.asarray(middles * self.size // max(sizes.sum(), 1) == self.rank)

    def tell(self, error: EngineError) -> bool:
        """Say that this process failed; the others raise the same when they wait for it.

        Returns:
            Whether there are others to hear of it.
        """
        if self._store is None:
            return False
        word = {"rank": self.rank, "code": error.code, "message": str(error)}
        # Without process 0 there is nobody to tell.
        with contextlib.suppress(RuntimeError, ValueError):
            # The first one counts: the others only repeat what they heard.
            self._store.compare_set(_FAILURE, "", json.dumps(word))
        return True

    def _reduce(self, flat: torch.Tensor) -> None:
        import torch.distributed as dist

        began = looked = time.monotonic()
        try:
            work = dist.all_reduce(flat, async_op=True)
            while not work.is_completed():
                now = time.monotonic()
                if now - looked > 1.0:
                    self._raise_failure()
                    looked = now
                if now - began > PATIENCE:
                    raise EngineError(
                        f"a process did not answer for {PATIENCE:.0f} s; run the job again"
                    )
                # Short steps must not wait for a long sleep.
                time.sleep(min(1e-2, max(2e-5, 0.1 * (now - began))))
            work.wait()
        except RuntimeError as error:
            # The connection is gone because the other is: it may have said why.
            for _ in range(20):
                self._raise_failure()
                time.sleep(0.1)
            raise EngineError(
                f"one of the {self.size} processes ended without a word (killed, for lack of "
                "memory?); look into its error stream, or ask for more memory"
            ) from error

    def _raise_failure(self) -> None:
        try:
            if not self._store.check([_FAILURE]):
                return
            word = json.loads(self._store.get(_FAILURE))
        except RuntimeError:
            return  # process 0 is gone, and has said why itself
        raise by_code(word["code"], f"process {word['rank']} of {self.size}: {word['message']}")


def _agent_listens() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
