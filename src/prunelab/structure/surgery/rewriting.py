"""Hard-coded widths of a forward pass: ``reshape(B, N, C)`` becomes ``reshape(B, N, -1)``.

Most attention modules take C from their input and use it as the width of the output of their heads, which is right only
if no head is removed. No attribute can correct it, so the call itself is changed: one argument of a ``reshape`` or
``view`` in the source of a method of the module becomes -1, which has the same value in the full network. A plan names
the call and the argument and contains no code; a call that the installed source does not contain is an error.

The same holds for functions of the module's file that its methods call (the attention of torchvision's Swin): only the
methods of the changed module call the changed function.
"""

from __future__ import annotations
import __future__ as future

import ast
import inspect
import linecache
import sys
import textwrap
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any, NamedTuple

from torch import nn

from prunelab.errors import UserError

_RESHAPES = ("reshape", "view")
_NO_SOURCE = "define the class in a .py file (not by exec, python -c, standard input, or only in a .pyc file)"


class Width(NamedTuple):
    """An argument of a call of ``reshape`` or ``view`` in the source of a method, or of a function ("attend()")."""

    method: str
    call: int  # number of the call among these calls, in the order of the text
    argument: int
    of: int  # number of arguments of the call
    text: str  # the call, to detect another version of the library


def hard_coded_widths(module: nn.Module) -> tuple[Width, ...]:
    """The hard-coded widths in the methods of ``module``, the last of each call first; () without source."""
    taken = {(width.method, width.call) for width in _rewritten(type(module))}
    written = _hard_coded(_original(type(module)))
    return tuple(width for width in written if (width.method, width.call) not in taken)


def rewrite(module: nn.Module, widths: Collection[Width]) -> None:
    """Make ``module`` compute these widths: it becomes an instance of a subclass with other methods.

    Raises UserError if its source has no such width.
    """
    check_hard_coded(module, widths)
    original = _original(type(module))
    module.__class__ = _subclass(original, tuple(sorted({*_rewritten(type(module)), *widths})))


def check_hard_coded(module: nn.Module, widths: Collection[Width]) -> None:
    """Raises UserError if the methods of ``module`` do not contain all of ``widths``."""
    original = _original(type(module))
    missing = sorted(set(widths) - set(_hard_coded(original)))
    if missing:
        method = _written(original, missing[0].method)
        if inspect.isfunction(method) and not _has_source(method):
            raise UserError(
                f"the plan changes a width in the source of {original.__name__}.{missing[0].method}, "
                f"{missing[0].text!r}, but that source is not available: {_NO_SOURCE}"
            )
        raise UserError(
            f"this plan was made for another network, or for another version of its library: it changes argument "
            f"{missing[0].argument} of {missing[0].text!r}, which is not in {original.__name__}.{missing[0].method}"
        )


def without_source(module: nn.Module) -> str | None:
    """The reason why widths in the methods of ``module`` cannot be found (a method without source), else None."""
    original = _original(type(module))
    for part in original.__mro__[: original.__mro__.index(nn.Module)]:
        for name, value in vars(part).items():
            if not inspect.isfunction(value) or set(_RESHAPES).isdisjoint(value.__code__.co_names):
                continue
            if not _has_source(value):
                return f"the source of {original.__name__}.{name} is not available: {_NO_SOURCE}"
    return None


def _has_source(function: Any) -> bool:
    try:
        return bool(inspect.getsource(function))
    except (OSError, TypeError):
        return False


def _original(kind: type[nn.Module]) -> Any:
    return vars(kind).get("prunelab_original", kind)


def _rewritten(kind: type[nn.Module]) -> tuple[Width, ...]:
    return vars(kind).get("prunelab_rewritten", ())


@cache
def _hard_coded(kind: Any) -> tuple[Width, ...]:
    """All hard-coded widths in the methods of ``kind``. Of a call that contains a -1, those behind it: the -1 is then
    computed from the shape of the tensor."""
    fixed = ast.Constant | ast.Starred | ast.Tuple | ast.List
    own = kind.__mro__[: kind.__mro__.index(nn.Module)]
    found = {name: value for part in own for name, value in vars(part).items() if inspect.isfunction(value)}
    called = {f"{name}()" for value in found.values() for name in value.__code__.co_names}
    methods = [*sorted(found), *sorted(name for name in called if _written(kind, name) is not None)]
    return tuple(
        Width(method, number, argument, len(call.args), ast.unparse(call))
        for method in methods
        if (definition := _definition(kind, method)) is not None
        for number, call in enumerate(_calls(definition))
        if not any(isinstance(value, ast.Starred) for value in call.args) and len(_computed(call)) < 2
        for argument in reversed(range(max([*_computed(call), -1]) + 1, len(call.args)))
        if not isinstance(call.args[argument], fixed)
    )


def _written(kind: type[nn.Module], name: str) -> Any:
    """A method of ``kind``, or for a name with "()" a function of its file; None if there is no such function."""
    if not name.endswith("()"):
        return getattr(kind, name, None)
    function = vars(sys.modules.get(kind.__module__, kind)).get(name.removesuffix("()"))
    own = inspect.isfunction(function) and function.__module__ == kind.__module__
    return function if own else None


def _definition(kind: type[nn.Module], method: str) -> ast.FunctionDef | None:
    """The source of a method; None without source, or if it has another meaning outside its class."""
    function: Any = _written(kind, method)
    if not inspect.isfunction(function) or function.__closure__:
        return None
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, SyntaxError):
        return None
    if len(body) != 1 or not isinstance(body[0], ast.FunctionDef) or body[0].decorator_list:
        return None
    names = [
        node.attr if isinstance(node, ast.Attribute) else node.id
        for node in ast.walk(body[0])
        if isinstance(node, ast.Attribute | ast.Name)
    ]
    private = any(name.startswith("__") and not name.endswith("__") for name in names)
    return None if private else body[0]


def _computed(call: ast.Call) -> list[int]:
    """The arguments of ``call`` that are -1."""
    return [place for place, value in enumerate(call.args) if isinstance(value, ast.UnaryOp)]


def _compute(call: ast.Call, argument: int) -> None:
    """Make ``argument`` of ``call`` -1. A -1 before it becomes the size of the tensor at this place, which a trial
    checks: ``y.reshape(a, -1, b)`` becomes ``(source := y).reshape(a, source.shape[1], -1)``."""
    assert isinstance(call.func, ast.Attribute)
    for place in _computed(call):
        source = ast.Name("prunelab_source", ast.Store())
        call.func.value = ast.NamedExpr(source, call.func.value)
        call.args[place] = ast.parse(f"prunelab_source.shape[{place}]", mode="eval").body
    call.args[argument] = ast.parse("-1", mode="eval").body


def _calls(definition: ast.FunctionDef) -> list[ast.Call]:
    """Method calls of ``reshape`` and ``view`` in the order of the text."""
    found = [
        node
        for node in ast.walk(definition)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _RESHAPES
    ]
    return sorted(found, key=lambda call: (call.end_lineno or 0, call.end_col_offset or 0))


@cache
def _subclass(original: Any, widths: tuple[Width, ...]) -> type[nn.Module]:
    """A subclass of ``original`` with methods that compute ``widths``; instances print, copy and pickle as before."""
    functions = {
        width.method.removesuffix("()"): _rewritten_function(original, width.method, widths, {})
        for width in widths
        if width.method.endswith("()")
    }
    methods = {width.method for width in widths if not width.method.endswith("()")}
    own = (part for part in original.__mro__[: original.__mro__.index(nn.Module)])
    methods |= {
        name
        for part in own
        for name, value in vars(part).items()
        if inspect.isfunction(value) and not functions.keys().isdisjoint(value.__code__.co_names)
    }
    names = {
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
        "__reduce_ex__": lambda self, protocol: (_revived, (original, widths), self.__dict__),
        "prunelab_original": original,
        "prunelab_rewritten": widths,
        **{name: _rewritten_function(original, name, widths, functions) for name in sorted(methods)},
    }
    return type(original.__name__, (original,), names)


def _revived(original: Any, widths: tuple[Width, ...]) -> nn.Module:
    check_hard_coded(original.__new__(original), widths)
    kind = _subclass(original, widths)
    return kind.__new__(kind)


def _rewritten_function(
    original: type[nn.Module], name: str, widths: Collection[Width], functions: Mapping[str, Any]
) -> Any:
    """The method or function ``name`` with its ``widths``, which calls ``functions`` instead of those of its file."""
    definition = _definition(original, name)
    assert definition is not None
    calls = _calls(definition)
    widths = [width for width in widths if width.method == name]
    for width in widths:
        _compute(calls[width.call], width.argument)
    # Defaults are taken from the function: their expressions may use names of the class.
    arguments = definition.args
    arguments.defaults = [ast.Constant(None) for _ in arguments.defaults]
    arguments.kw_defaults = [None if value is None else ast.Constant(None) for value in arguments.kw_defaults]
    maker = ast.parse(f"def make({', '.join(functions)}):\n    return {definition.name}").body[0]
    assert isinstance(maker, ast.FunctionDef)
    maker.body.insert(0, definition)
    text = ast.unparse(maker if functions else definition) + "\n"
    # The text is stored under its own file name: tracebacks show it, and TorchScript compiles it.
    changed = ", ".join(f"{width.call}[{width.argument}]" for width in widths)
    file = f"<prunelab: {original.__module__}.{original.__qualname__}.{name}, calls {changed}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    old: Any = _written(original, name)
    made: dict[str, Any] = {}
    flags = future.annotations.compiler_flag  # annotations stay strings
    exec(compile(text, file, "exec", flags, dont_inherit=True), old.__globals__, made)
    method = made["make"](**functions) if functions else made[definition.name]
    method.__module__, method.__qualname__ = old.__module__, old.__qualname__
    method.__defaults__, method.__kwdefaults__ = old.__defaults__, old.__kwdefaults__
    return method
