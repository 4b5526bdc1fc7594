"""Names for the tensors of a forward pass, such as "the output of call 2 made in layer1.0".

The names are the same in every pass of a network, on any device, in training and evaluation mode, for modules and for
functional code. A tensor that a trace on the meta device has found can therefore be observed in a real run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Call = tuple[str, int]  # path of the running module, number of the call among those made in that module


class Calls(TorchFunctionMode):
    """Counts the Python-level calls of a pass, module by module.

    A call that returns a tensor of another type than floating point (such as BatchNorm's count of batches, which exists
    in training mode only) gets no number.
    """

    def __init__(self, returned: Callable[[Call, Any], None]) -> None:
        super().__init__()
        self.modules: list[str] = [""]
        self.current: Call = ("", -1)
        self._returned = returned
        self._counts: dict[str, int] = {}

    def restart(self) -> None:
        """A new pass begins."""
        self._counts.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        path = self.modules[-1]
        call = (path, self._counts.get(path, 0))
        self.current = call
        out = func(*args, **(kwargs or {}))
        self.current = call
        if isinstance(out, Tensor) and not (out.is_floating_point() or out.is_complex()):
            return out
        self._counts[path] = call[1] + 1
        self._returned(call, out)
        return out


class WhileOutermost:
    """Keeps a context open from the beginning to the end of the outermost of nested calls.

    (A LightningModule that is its own network is entered twice under DDP.)
    """

    def __init__(self, context: AbstractContextManager[Any]) -> None:
        self._context = context
        self._depth = 0

    def enter(self) -> None:
        """A call begins."""
        self._depth += 1
        if self._depth == 1:
            self._context.__enter__()

    def leave(self) -> None:
        """A call ends."""
        self._depth -= 1
        if self._depth == 0:
            self._context.__exit__(None, None, None)


@contextmanager
def following(
    model: nn.Module,
    calls: Calls,
    entered: Callable[[str, Any], None] = lambda path, args: None,
    left: Callable[[str, Any], None] = lambda path, out: None,
) -> Iterator[None]:
    """Keep ``calls.modules`` equal to the stack of running modules; report the input and output of each."""

    def enter(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if not path:
                calls.restart()
            calls.modules.append(path)
            entered(path, (args, kwargs))

        return hook

    def leave(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            calls.modules.pop()
            left(path, out)

        return hook

    with ExitStack() as stack:
        for path, module in model.named_modules():
            for handle in (
                module.register_forward_pre_hook(enter(path), with_kwargs=True),
                module.register_forward_hook(leave(path), always_call=True),
            ):
                stack.callback(handle.remove)
        yield
