"""A pretended accelerator: tensors that are computed on the CPU but report another device.

Inside ``pretended_device()`` a tensor moved to ``DEVICE`` behaves like one in the memory of a GPU: an operator that
combines it with a CPU tensor raises an error, and so does ``numpy()``. Scalars and index tensors may stay on the CPU,
as with CUDA. A test on a machine without a GPU therefore finds code that leaves a tensor on the wrong device.

The device is torch's "private use" one with the guards for backends written in Python (torch 2.9 and newer).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretended"
aten = torch.ops.aten
_setup_privateuseone_for_python_backend(NAME)  # once per process; no effect on other tests
DEVICE = torch.device(NAME, 0)

MAY_MIX = {
    aten.copy_.default,
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
"""Operators that take tensors of two devices, on CUDA as well."""


class WrongDevice(RuntimeError):
    """Tensors of two devices were combined."""


class Pretended(Tensor):
    """A tensor whose values are those of ``inner``, on the CPU, and whose device is ``DEVICE``."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> Pretended:
        made: Pretended = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Pretended({self.inner!r})"

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: Any) -> Pretended:
        return Pretended(inner["inner"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _is_ours(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    pretended = any(isinstance(tensor, Pretended) for tensor in tensors)
    target = next((leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)), None)
    if not pretended and not _is_ours(target):
        return func(*args, **kwargs)
    left_behind = [t for t in tensors if not isinstance(t, Pretended) and t.dim() > 0]
    if pretended and left_behind and func not in MAY_MIX:
        shapes = [(tuple(tensor.shape), str(tensor.device)) for tensor in tensors]
        raise WrongDevice(f"{func}: all tensors must be on the same device, but they are {shapes}.")
    inner_args, inner_kwargs = tree_map(_inner, (args, kwargs))
    out = func(*inner_args, **inner_kwargs)
    if func is aten.copy_.default and not isinstance(args[0], Pretended):
        return args[0]
    if target is not None and not _is_ours(target):
        return out
    out = tree_map(lambda value: Pretended(value) if isinstance(value, Tensor) else value, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if pretended else out


def _inner(value: Any) -> Any:
    if isinstance(value, Pretended):
        return value.inner
    return torch.device("cpu") if isinstance(value, torch.device) and _is_ours(value) else value


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class _Constructors(TorchFunctionMode):
    """Functions that read or create values below the dispatcher use a CPU tensor."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.tolist and isinstance(args[0], Pretended):
            return args[0].cpu().tolist()
        if func == Tensor.data.__set__ and isinstance(args[0], Pretended):  # type: ignore[attr-defined]
            args[0].inner = args[1].inner  # the setter replaces what torch stores, not attributes
            return func(*args)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[1], list):
            args = (args[0], torch.tensor(args[1]), *args[2:])
        if func is Tensor.new_tensor and isinstance(args[0], Pretended):
            dtype = kwargs.pop("dtype", args[0].dtype)
            return torch.tensor(*args[1:], dtype=dtype, **kwargs).to(DEVICE)
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and _is_ours(kwargs.get("device")):
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


@contextmanager
def pretended_device() -> Iterator[torch.device]:
    """Context in which tensors and networks can be moved ``.to(DEVICE)``."""
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(
        True
    )  # a moved parameter stays the same object, as on CUDA
    try:
        with _Constructors(), _Operators():
            yield DEVICE
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)
