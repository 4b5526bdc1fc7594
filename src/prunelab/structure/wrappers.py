"""Networks in wrappers: compiled ones are run uncompiled, others must be passed without the wrapper."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from prunelab.errors import UserError
from prunelab.structure.attention import restore, slim

_PARALLEL = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[nn.Module]:
    """Context in which no part of ``model`` is compiled -> the network inside ``torch.compile(network)``, or ``model``.

    Modules replace the wrappers that ``torch.compile`` put around them, ``module.compile()`` is undone, and
    compiled functions run as plain Python: the paths of modules and the names of tensors are those of the network that
    was compiled. Afterwards everything is compiled as before, except what was replaced inside. PyTorch's attention runs
    as ``SlimAttention``, also afterwards if its widths were changed inside.

    Raises UserError if ``model`` is not a network or its program cannot be traced (``DataParallel``, TorchScript).
    """
    check_network(model)
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for module in _modules(model):
            if slim(module):
                stack.callback(restore, module)
            for name, child in module._modules.items():
                if child is not None and "_orig_mod" in child._modules:
                    module._modules[name] = _original(child)
                    stack.callback(_compile_again, module, name, child)
            compiled = module._compiled_call_impl
            if compiled is not None:
                module._compiled_call_impl = None
                stack.callback(setattr, module, "_compiled_call_impl", compiled)
        yield _original(model)


def _modules(model: nn.Module) -> list[nn.Module]:
    """``list(model.modules())`` in a tenth of the time, in any order."""
    found = {id(model): model}
    stack = [model]
    while stack:
        for child in stack.pop()._modules.values():
            if child is not None and id(child) not in found:
                found[id(child)] = child
                stack.append(child)
    return list(found.values())


def _original(module: nn.Module) -> nn.Module:
    """The argument of ``torch.compile``."""
    while (inner := module._modules.get("_orig_mod")) is not None:
        module = inner
    return module


def _compile_again(parent: nn.Module, name: str, child: nn.Module) -> None:
    if parent._modules.get(name) is _original(child):
        parent._modules[name] = child


def check_network(model: Any) -> None:
    """Raises UserError if ``model`` is not a network that prunelab can analyse; the message names what to pass."""
    if isinstance(model, type):
        raise UserError(f"the network is a class; create an object of it first: {model.__name__}(...)")
    if not isinstance(model, nn.Module):
        advice = "program.module()" if type(model).__name__ == "ExportedProgram" else "a torch.nn.Module"
        raise UserError(f"the network is of type {type(model).__name__}; pass {advice} instead")
    for module in _modules(model):
        kind = type(module)
        if isinstance(module, torch.jit.ScriptModule):
            raise UserError(
                f"{_place(model, module)} is TorchScript ({kind.__name__}), which has a fixed program. Prune the "
                "network before torch.jit.script or torch.jit.trace; script or trace the pruned network afterwards."
            )
        if kind.__name__ in _PARALLEL and kind.__module__.startswith("torch."):
            raise UserError(
                f"{_place(model, module)} is wrapped in {kind.__name__}. Pass the network inside it (its attribute "
                "'module'), and wrap the pruned network afterwards."
            )


def require_weights(model: nn.Module) -> None:
    """Raises UserError if ``model`` has lazy layers that have not got their weights yet."""
    if any(torch.nn.parameter.is_lazy(parameter) for parameter in model.parameters()):
        raise UserError("the network has lazy layers without weights. Run it once on a real input first.")


def _place(model: nn.Module, module: nn.Module) -> str:
    path = next(path for path, each in model.named_modules() if each is module)
    return f"module {path!r} of the network" if path else "the network"
