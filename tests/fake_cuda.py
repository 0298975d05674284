"""A pretended GPU: tensors that have a device, a dtype and a shape, and no numbers.

Torch's fake tensors can be on ``cuda`` without one. Every operator is dispatched as it would be there, autocast
included, and one that is given tensors of different devices is an error. What needs a driver is replaced here, in the
tests alone:

- the autograd engine, by a walk over the same graph that calls the same backward functions;
- generators: one made for ``cuda`` is known to be, and a draw whose generator is of another device is an error;
- whatever reads a number (``item``, ``tolist``, ``bool``): every float is 0.5, every integer 1, every truth true;
- ``numpy``, ``torch.save``, ``torch.load`` and safetensors: shapes, dtypes and devices are kept;
- what ``torch.cuda`` tells of the device.

Kernels, numbers, streams, memory and speed are not seen.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map

CUDA = torch.device("cuda:0")
NUMPY = {torch.float32: np.float32, torch.int64: np.int64, torch.uint8: np.uint8, torch.bool: np.bool_}

UNDETERMINISTIC = re.compile(
    r"avg_pool3d_backward|_adaptive_avg_pool[23]d_backward|adaptive_max_pool2d_backward"
    r"|fractional_max_pool[23]d_backward|max_unpool[23]d|upsample_(linear1d|bilinear2d|bicubic2d|trilinear3d)_backward"
    r"|_upsample_(bilinear|bicubic)2d_aa_backward|(reflection|replication)_pad[123]d_backward"
    r"|nll_loss2d_(forward|backward)|_ctc_loss_backward|put_?|histc|median|kthvalue|grid_sampler_[23]d_backward"
)
"""Operators that raise on a GPU under :func:`torch.use_deterministic_algorithms`, by its documentation."""

TO_HOST = "copied to the host"
SYNCHRONISING = frozenset(["_local_scalar_dense", TO_HOST])
"""What has the host wait for a GPU: a number that is read, a tensor that is copied from it."""

ONE_DTYPE = frozenset(["mm", "bmm", "addmm", "baddbmm", "addbmm", "linear", "matmul", "convolution"])
"""Operators that take floating-point tensors of one dtype alone, which torch's own stand-ins do not check."""


class _Mode(FakeTensorMode):
    avoid_device_init = True  # type: ignore[assignment]  # also where torch.cuda says that it is there


class _Operators(TorchDispatchMode):
    """Sees every operator before the fake tensors do."""

    def __init__(self, seen: set[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense":
            if args[0].is_cuda:
                self.seen.add(name)
            return True if args[0].dtype == torch.bool else 0.5 if args[0].is_floating_point() else 1
        if name in ("pin_memory", "_pin_memory"):
            assert args[0].device.type == "cpu", f"only a tensor of the CPU can be pinned, not one of {args[0].device}"
            return args[0]
        if name.startswith("_fused_"):  # an optimiser's step: written in place, and without a form for fake tensors
            if len({each.device for each in _tensors((*args, *kwargs.values()))}) > 1:
                raise RuntimeError(f"{name}: tensors of different devices")
            return None
        found = func(*args, **kwargs)
        tensors = list(_tensors((*args, found)))
        if any(each.is_cuda for each in tensors):
            self.seen.add(name)
            if name == "_to_copy" and not found.is_cuda and not kwargs.get("non_blocking"):
                self.seen.add(TO_HOST)
            if torch.are_deterministic_algorithms_enabled() and UNDETERMINISTIC.fullmatch(name):
                raise RuntimeError(f"{name} does not have a deterministic implementation on CUDA")
            # what fake tensors let pass
            if name in ONE_DTYPE and len({each.dtype for each in tensors if each.is_floating_point()}) > 1:
                raise RuntimeError(f"{name}: of different dtypes ({', '.join(str(each.dtype) for each in tensors)})")
            if name.startswith("index") and args[0].device.type == "cpu":
                raise RuntimeError(f"{name}: indices should be on the CPU, where the indexed tensor is")
        return found


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


class _Generators(TorchFunctionMode):
    """Sees the generators that are given, which the operators get without their pretended device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        generator = kwargs.get("generator")
        if isinstance(generator, _Generator) and generator.pretended.type != found.device.type:
            raise RuntimeError(
                f"Expected a '{found.device}' device type for generator but found '{generator.pretended}'"
            )
        return found


class _Generator(torch.Generator):
    pretended: torch.device

    def __new__(cls, device: Any = "cpu") -> _Generator:
        made = super().__new__(cls)
        made.pretended = torch.device(device)
        return made


def _backward(loss: Tensor) -> None:
    """Do what the autograd engine does, without its streams and threads, which need a driver."""
    assert loss.grad_fn is not None
    awaited: dict[Any, int] = {loss.grad_fn: 0}
    found = [loss.grad_fn]
    while found:
        for function, _ in found.pop().next_functions:
            if function is not None:
                if function not in awaited:
                    found.append(function)
                awaited[function] = awaited.get(function, 0) + 1
    gradients: dict[Any, dict[int, Tensor]] = {loss.grad_fn: {0: torch.ones_like(loss)}}
    ready = [loss.grad_fn]
    with torch.no_grad():
        while ready:
            node: Any = ready.pop()
            given = gradients.pop(node, {})
            arguments = [
                None if (value := given.get(number)) is None else _as_engine(node, value, expected)
                for number, expected in enumerate(node._input_metadata)
            ]
            results: Any = (None,) * len(node.next_functions)
            if given:
                results = getattr(node, "apply", node)(*arguments)  # one written in Python has `apply`
            for (function, number), value in zip(node.next_functions, _tuple(results), strict=False):
                if function is None:
                    continue
                if value is not None:
                    there = gradients.setdefault(function, {})
                    there[number] = there[number] + value if number in there else value
                awaited[function] -= 1
                if not awaited[function]:
                    ready.append(function)


def _tuple(found: Any) -> tuple[Any, ...]:
    return found if isinstance(found, tuple) else (found,)


def _as_engine(node: Any, gradient: Tensor, expected: Any) -> Tensor:
    if gradient.device != expected.device:
        raise RuntimeError(f"{node}: a gradient on {gradient.device}, expected on {expected.device}")
    return gradient.sum_to_size(list(expected.shape)).to(expected.dtype)


def _apply(self: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
    """Put new parameters in the place of the old ones; torch would exchange what is in them, which fakes refuse."""
    for child in self.children():
        _apply(child, fn)
    for name, parameter in self._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                moved = fn(parameter)
            if moved is not parameter:
                self._parameters[name] = nn.Parameter(moved, parameter.requires_grad)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = fn(buffer)
    return self


def _deepcopy(self: Tensor, memo: dict[int, Any]) -> Tensor:
    if id(self) not in memo:
        with torch.no_grad():
            copy = self.detach().clone()
        memo[id(self)] = nn.Parameter(copy, self.requires_grad) if isinstance(self, nn.Parameter) else copy
    return memo[id(self)]


def _numpy(self: Tensor) -> np.ndarray:
    if self.device.type != "cpu":
        raise TypeError(f"can't convert {self.device} device type tensor to numpy")
    if self.requires_grad:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad")
    if self.dtype not in NUMPY:
        raise TypeError(f"Got unsupported ScalarType {self.dtype}")
    return np.full(tuple(self.shape), 0.5).astype(NUMPY[self.dtype])


_saved, _loaded, _loaded_file = torch.save, torch.load, safetensors.torch.load_file


def _save(state: Any, file: Any) -> None:
    def fact(leaf: Any) -> Any:
        if not isinstance(leaf, FakeTensor):
            return leaf
        return {"tensor": [list(leaf.shape), str(leaf.dtype).removeprefix("torch."), str(leaf.device)]}

    with _disable_current_modes():
        _saved(tree_map(fact, state), file)


def _load(file: Any, map_location: str | None = None, **options: Any) -> Any:
    with _disable_current_modes():
        state = _loaded(file, **options)

    def is_fact(node: Any) -> bool:
        return isinstance(node, dict) and node.keys() == {"tensor"}

    def tensor(node: Any) -> Any:
        if not is_fact(node):
            return node
        shape, dtype, device = node["tensor"]
        return torch.zeros(shape, dtype=getattr(torch, dtype), device=map_location or device)

    return tree_map(tensor, state, is_leaf=is_fact)


def _safetensors(tensors: dict[str, Tensor]) -> bytes:
    return safetensors.numpy.save({name: tensor.numpy() for name, tensor in tensors.items()})


def _load_file(path: Any) -> dict[str, Tensor]:
    with _disable_current_modes():
        return _loaded_file(path)


def _set_rng_state(state: Tensor, device: Any) -> None:
    assert torch.device(device).type == "cuda"
    if (state.device.type, state.dtype) != ("cpu", torch.uint8):
        raise TypeError("RNG state must be a torch.ByteTensor")


def peak() -> int:
    """Return what the allocator says; a test may have it say something."""
    return 2**20


def reset_peak() -> None:
    """See :func:`peak`."""


@contextlib.contextmanager
def fake_cuda(gpus: int = 1) -> Iterator[set[str]]:
    """Pretend that there are GPUs; give the names of the operators that ran there."""
    seen: set[str] = set()
    replaced: dict[str, Any] = {
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.is_initialized": lambda: True,
        "torch.cuda.device_count": lambda: gpus,
        "torch.cuda.current_device": lambda: 0,
        "torch.cuda.set_device": lambda device: None,
        "torch.cuda.is_bf16_supported": lambda including_emulation=True: True,
        "torch.cuda.get_device_name": lambda device: "pretended",
        "torch.cuda.get_rng_state": lambda device: torch.zeros(16, dtype=torch.uint8),
        "torch.cuda.set_rng_state": _set_rng_state,
        "torch.cuda.max_memory_allocated": lambda device: peak(),
        "torch.cuda.reset_peak_memory_stats": lambda device: reset_peak(),
        "torch.cuda.manual_seed_all": lambda seed: None,
        "torch.cuda.Event": mock.MagicMock,
        "torch.Generator": _Generator,
        "torch.Tensor.backward": _backward,
        "torch.nn.Module._apply": _apply,
        "torch.save": _save,
        "torch.load": _load,
        "safetensors.torch.save": _safetensors,
        "safetensors.torch.load_file": _load_file,
        "torch._subclasses.fake_tensor.init_gpu_context": lambda device: None,
    }
    with contextlib.ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(mock.patch(name, value))
        stack.enter_context(mock.patch.object(FakeTensor, "numpy", _numpy, create=True))
        stack.enter_context(mock.patch.object(FakeTensor, "__deepcopy__", _deepcopy, create=True))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "'pin_memory' argument is set as true but no accelerator")
        stack.enter_context(_Mode(allow_non_fake_inputs=True))
        stack.enter_context(_Operators(seen))
        stack.enter_context(_Generators())
        yield seen


def why_not() -> str:
    """Return why a GPU cannot be pretended here; empty where it can."""
    if torch.version.cuda is None:
        return "this torch was built without CUDA, and has no fake tensors on it"
    return ""
