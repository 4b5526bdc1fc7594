"""Whether the program of a network can differ between training and evaluation mode.

Most networks use ``self.training`` for dropout only, which has no effect on channels. A run in training mode is then
not needed. The test reads the source of all functions that a forward pass may call; where it cannot be sure, the answer
is that the program differs.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from types import CodeType, FunctionType
from typing import Any

from torch import nn

FLAG = "training"
# Functions of an activation and of a flag that do not change its channels.
_HARMLESS = frozenset(
    ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "rrelu",
     "batch_norm", "drop_path", "stochastic_depth")
)  # fmt: skip
_PROBABILITIES = frozenset(("dropout_p", "p"))


def same_in_both(module: nn.Module) -> bool:
    """Whether a module has the same effect on channels in both modes: PyTorch's own layers, normalisations, dropout."""
    kinds = nn.modules.batchnorm._NormBase | nn.modules.dropout._DropoutNd | nn.RReLU
    return type(module).__module__.startswith("torch.nn.") or isinstance(module, kinds)


def may_differ(model: nn.Module) -> bool:
    """Whether a forward pass of ``model`` may do something else in training mode."""
    classes: set[Any] = {type(module) for module in model.modules() if not same_in_both(module)}
    seen: set[FunctionType] = set()
    names, pending = {"forward", "__call__"}, ["forward", "__call__"]
    while pending:
        name = pending.pop()
        for function in (each for kind in classes for each in _methods(kind).get(name, ())):
            for reached in _reached(function, seen):
                if _decides(reached):
                    return True
                new = _names(reached.__code__) - names
                names |= new
                pending.extend(new)
    return False


def _reached(function: FunctionType, seen: set[FunctionType]) -> Iterator[FunctionType]:
    """``function`` and the functions outside of PyTorch that it may call by a global name or from its closure."""
    stack = [function]
    while stack:
        current = stack.pop()
        if current in seen or (current.__module__ or "").startswith("torch."):  # None: made by exec
            continue
        seen.add(current)
        yield current
        cells = [_content(cell) for cell in current.__closure__ or ()]
        called = [current.__globals__.get(name) for name in _names(current.__code__)]
        stack.extend(each for each in (*cells, *called) if isinstance(each, FunctionType))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


@cache
def _methods(kind: type) -> dict[str, tuple[FunctionType, ...]]:
    """The functions of a class by name, those of its base classes too, without those of PyTorch."""
    found: dict[str, tuple[FunctionType, ...]] = {}
    for part in kind.__mro__:
        if part is not object and not part.__module__.startswith("torch."):
            for name, value in vars(part).items():
                functions = tuple(each for each in _inner(value) if isinstance(each, FunctionType))
                found[name] = (*found.get(name, ()), *functions)
    return found


def _inner(value: Any) -> tuple[Any, ...]:
    if isinstance(value, property):
        return (value.fget,)
    if isinstance(value, staticmethod | classmethod):
        return (value.__func__,)
    if isinstance(value, functools.cached_property):
        return (value.func,)
    return value, getattr(value, "__wrapped__", None)


@cache
def _names(code: CodeType) -> frozenset[str]:
    """The global names and attributes in ``code`` and in the functions that it defines."""
    inner = (_names(each) for each in code.co_consts if isinstance(each, CodeType))
    return frozenset(code.co_names).union(*inner)


@cache
def _decides(function: FunctionType) -> bool:
    """Whether ``function`` may use the flag for anything but dropout."""
    code = function.__code__
    if FLAG not in _names(code) and FLAG not in code.co_consts:
        return False
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return True
    harmless = {
        id(node) for call in ast.walk(tree) if isinstance(call, ast.Call) for node in _arguments(call)
    }
    flags = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == FLAG]
    return FLAG in code.co_consts or not all(id(node) in harmless for node in flags)


def _arguments(call: ast.Call) -> Iterator[ast.AST]:
    """The nodes in the arguments of a call that may be the flag without effect on channels."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in _HARMLESS:
        yield from call.args
        yield from (keyword.value for keyword in call.keywords)
    for keyword in call.keywords:  # dropout_p=self.p if self.training else 0.0
        value = keyword.value
        if keyword.arg in _PROBABILITIES and isinstance(value, ast.IfExp):
            yield value.test
