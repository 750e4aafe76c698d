"""A GPU that is none: what would go wrong on CUDA alone goes wrong here, on a processor.

Tensors "on the GPU" are of the class :class:`OnGpu` and have their numbers on the processor, so
that autograd, optimisers and files work as ever. While :class:`PretendGpu` is active it sees every
call of torch from Python. It

- tells such tensors' device as ``cuda:0``, and makes them where a device ``cuda`` is asked for;
- refuses what CUDA refuses: tensors of both devices in one call, but for scalars on the processor
  and for what copies; such a tensor as an array of numpy; a generator of the other device;
- counts, by file and line, the calls for which the program waits for a real GPU.

What happens within torch, in C++ or Python, is not looked at: it is one call, and torch's affair.
Nor are a GPU's memory, speed and rounding, nor kernels that CUDA lacks.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

import aiida_rm

#: What tells of the device.
_TOLD = {"device": torch.device("cuda:0"), "is_cuda": True, "is_cpu": False, "get_device": 0}
#: They take from one device to the other.
_TRANSFERS = {"to", "cpu", "type_as", "as_tensor", "tensor"}
#: They take no scalar from the other device, either.
_STRICT = {"cat", "stack", "equal", "index_select", "gather", "scatter", "index_add", "index_copy"}
_STRICT |= {"scatter_add", "scatter_reduce", "linear", "embedding"}
#: The program waits for values, or for how many they are, or for an error code.
_WAITING = {"item", "tolist", "__float__", "__int__", "__bool__", "__index__", "equal", "bincount"}
_WAITING |= {"nonzero", "unique_consecutive", "linalg_inv", "linalg_solve", "linalg_matrix_exp"}


class OnGpu(Tensor):
    """A tensor that is said to be on the GPU; the mode below does all of it."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copy = self.detach().clone().requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copy._is_param = True  # torch's mark of parameters that are of other classes
        memo[id(self)] = copy
        return copy


class PretendGpu(TorchFunctionMode):
    """Where it is active, torch can put tensors on a GPU.

    Attributes:
        waits: how often the program waited for it, by file and line of the engine.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # Of the getter of an attribute, the attribute's.
        name = func.__self__.__name__ if func.__name__ == "__get__" else func.__name__
        if name == "cuda":
            return self.__torch_function__(Tensor.to, types, (args[0], "cuda"))
        # The memo of a copy holds all that was copied before.
        given = _tensors(args[:1] if name == "__deepcopy__" else (args, kwargs))
        there = any(isinstance(one, OnGpu) for one in given)
        if there and name in _TOLD:
            return _TOLD[name]
        if name == "_has_compatible_shallow_copy_type":
            # Else Module.to puts what is on the GPU into a parameter of the processor.
            return isinstance(args[0], OnGpu) == isinstance(args[1], OnGpu)
        if there and name not in _TRANSFERS:
            _refuse(name, args, given)
        args, kwargs, wanted = _target(name, args, kwargs, there)
        if wanted and kwargs.get("generator"):
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if _waits(name, args, kwargs, given, wanted):
            self.waits[_caller()] += 1

        def placed(result: Any) -> Any:
            if not isinstance(result, Tensor) or isinstance(result, OnGpu) == wanted:
                return result
            if name in _TRANSFERS:
                result = result.clone()  # not even the memory is shared
            elif result.device.type != "cpu" or any(result is one for one in given):
                return result  # of device meta, or changed in place
            return result.as_subclass(OnGpu if wanted else Tensor)

        results = func(*args, **kwargs)
        if name == "__iter__":
            return map(placed, results)
        return tree_map(placed, results)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _refuse(name: str, args: Any, given: list[Tensor]) -> None:
    """Raise what CUDA raises where one tensor at least is on the GPU."""
    if name in ("numpy", "__array__"):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")
    own = isinstance(args[0], OnGpu)
    others = [one for one in given if not isinstance(one, OnGpu)]
    if name == "copy_":
        return
    if name in ("__getitem__", "__setitem__"):
        arrays = [one for one in _tensors(args[1]) if one.dim()]
        if not own and any(isinstance(one, OnGpu) for one in arrays):
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the tensor"
            )
        # Without indices that are arrays, values are copied.
        others = [args[2]] if arrays and name == "__setitem__" and own else []
        others = [one for one in _tensors(others) if not isinstance(one, OnGpu) and one.dim()]
    elif name.rstrip("_") not in _STRICT:
        into = name.endswith("_") and not name.endswith("__")
        others = [one for one in others if one.dim() or (into and one is args[0])]
    if others:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, not cuda:0 and cpu: {name}"
        )


def _target(name: str, args: Any, kwargs: Any, there: bool) -> tuple[Any, dict[str, Any], bool]:
    """The arguments for the processor, and whether what comes of them is on the GPU."""
    if name == "cpu":
        return args, kwargs, False
    if name == "_parse_to":  # of Module.to, which comes back with what it found
        return args, kwargs, there
    if name in ("to", "type_as") and _tensors(args[1:2]):
        return args, kwargs, isinstance(args[1], OnGpu)
    device = kwargs.get("device")
    if name == "to" and isinstance((*args, None)[1], str | torch.device):
        device = args[1]
    if device is None:
        return args, kwargs, there and name != "tensor"
    wanted = torch.device(device).type == "cuda"
    if wanted and "device" in kwargs:
        kwargs = {**kwargs, "device": "cpu"}
    elif wanted:
        args = (args[0], "cpu", *args[2:])
    return args, kwargs, wanted


def _waits(name: str, args: Any, kwargs: Any, given: list[Tensor], wanted: bool) -> bool:
    there = [isinstance(one, OnGpu) for one in given]
    if name in (*_TRANSFERS, "copy_"):  # the memory of processes is not pinned
        return any(there) if not wanted else not all(there) or not there
    if name in ("__getitem__", "__setitem__"):
        inside, values = _tensors(args[1]), _tensors(args[2:])
        return any(there) and any(
            one.dtype == torch.bool or not isinstance(one, OnGpu) for one in inside + values
        )
    if name == "repeat_interleave":
        return any(there) and len(given) > 1 and kwargs.get("output_size") is None
    return any(there) and name in _WAITING


def _caller() -> str:
    """File and line of the engine from which torch was called."""
    top = str(Path(aiida_rm.__file__).parent / "engine")
    frame = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(top):
        frame = frame.f_back
    return f"{frame.f_code.co_filename[len(top) + 1 :]}:{frame.f_lineno}" if frame else ""


@contextmanager
def pretend_gpu(monkeypatch: pytest.MonkeyPatch, memory: int = 2**37) -> Iterator[PretendGpu]:
    """A machine with one GPU; of its memory, a thousandth is ever used."""
    properties = SimpleNamespace(total_memory=memory, name="Pretend GPU", uuid="0")
    for name, value in {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "set_device": None,
        "get_device_name": properties.name,
        "get_device_properties": properties,
        "max_memory_allocated": memory // 1000,
        "reset_peak_memory_stats": None,
        "empty_cache": None,
        "synchronize": None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_args, value=value, **_kwargs: value)
    with PretendGpu() as mode:
        yield mode
