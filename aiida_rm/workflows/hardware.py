"""GPUs and machines: what the jobs of a work chain ask of a scheduler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiida import orm

from aiida_rm.workflows.protocols import merge

#: No machine has more; who asks for more means all machines together.
MAX_GPUS = 64
MAX_NODES = 10_000
#: How each scheduler is asked for N GPUs of a machine; core.direct gives all that there are.
_LINES = {
    "core.slurm": "#SBATCH --gres=gpu:{}",
    "rm.pbspro": "#PBS -l ngpus={}",
    "core.direct": "",
}
_FIRST_MACHINE = 'export MASTER_ADDR=$(head -n 1 "$PBS_NODEFILE")'


@dataclass(frozen=True)
class Hardware:
    """What a work chain may use.

    Attributes:
        code: the engine.
        computer: where a code runs that belongs to no computer.
        gpus: of each machine; None asks for none.
        nodes: machines.
    """

    code: orm.AbstractCode
    computer: orm.Computer | None
    gpus: int | None
    nodes: int | None

    def __post_init__(self) -> None:
        """Refuse what no scheduler can give.

        Raises:
            ValueError: with the remedy.
        """
        for name, value, most in (("gpus", self.gpus, MAX_GPUS), ("nodes", self.nodes, MAX_NODES)):
            if value is not None and (type(value) is not int or not 1 <= value <= most):
                raise ValueError(
                    f"`{name}` is {value!r}, must be a whole number between 1 and {most}"
                    + ("; it counts those of each machine" if name == "gpus" else "")
                    + "; leave it out for none" * (name == "gpus")
                )
        if self.gpus is None and self.nodes is None:
            return
        scheduler = self.scheduler
        if self.gpus is not None and scheduler not in _LINES:
            remedy = (
                "PBS Pro wants them within `select`, which core.pbspro cannot say: set the "
                "computer up with the scheduler rm.pbspro"
                if scheduler == "core.pbspro"
                else "leave `gpus` out and write `custom_scheduler_commands` of `options`"
            )
            raise ValueError(f"`gpus`: how to ask {scheduler} for GPUs is not known; {remedy}")
        if (self.nodes or 1) > 1 and scheduler == "core.direct":
            raise ValueError(
                f"`nodes` is {self.nodes}, but core.direct knows one machine; leave it out, or "
                "set up a computer with the scheduler of the cluster"
            )
        if (self.nodes or 1) > 1 and self.code.with_mpi is False:
            raise ValueError(
                "`nodes`: the code says `with_mpi: false`, and without mpirun or srun a training "
                "stays on one machine; use a code without it, or one node"
            )

    @property
    def scheduler(self) -> str:
        """The scheduler of the computer.

        Raises:
            ValueError: there is no computer.
        """
        computer = self.code.computer or self.computer
        if computer is None:
            raise ValueError("`gpus` and `nodes` need to know the computer: give `computer`")
        return str(computer.scheduler_type)

    def of_training(self) -> dict[str, Any]:
        """`metadata.options` of a training: one process a GPU, on all machines."""
        if self.gpus is None and self.nodes is None:
            return {}
        nodes, each = self.nodes or 1, self.gpus or 1
        options = self.asking(self.gpus, nodes, each)
        if nodes == 1 and each > 1 and self.code.with_mpi is None:
            # The engine starts its processes itself: nothing depends on the computer's mpirun.
            options["withmpi"] = False
        if nodes > 1 and "pbs" in self.scheduler:
            options["prepend_text"] = _FIRST_MACHINE
        return options

    def of_generation(self) -> dict[str, Any]:
        """`metadata.options` of one of the jobs that share a search: one process, one GPU."""
        return {} if self.gpus is None else self.asking(1, 1, 1)

    @property
    def n_jobs(self) -> int:
        """How many jobs share a search: one a GPU."""
        if self.gpus is None and self.nodes is None:
            return 1
        # All jobs of core.direct would meet on its first GPU.
        return 1 if self.scheduler == "core.direct" else (self.gpus or 1) * (self.nodes or 1)

    def asking(self, gpus: int | None, nodes: int, processes: int) -> dict[str, Any]:
        """`metadata.options` of a job with so many GPUs and processes on each machine."""
        options: dict[str, Any] = {
            "resources": {"num_machines": nodes, "num_mpiprocs_per_machine": processes}
        }
        line = _LINES[self.scheduler] if gpus is not None else ""
        if line:
            options["custom_scheduler_commands"] = line.format(gpus)
        return options

    def on_gpu(self, inputs: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
        """Inputs whose job refuses to run without a GPU, unless they name a device."""
        asked: dict[str, Any] = {"settings": {"device": "cuda"}} if self.gpus is not None else {}
        for name in reversed(path):
            asked = {name: asked}
        return merge(asked, inputs)

    def share(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs of rm.generate with one job a GPU, unless they name the number."""
        return merge({"n_jobs": self.n_jobs} if self.n_jobs > 1 else {}, inputs)
