"""The inputs and outputs of convolutions and linear layers during a forward pass.

A layer is identified by its weight: every call of ``conv1d``, ``conv2d`` or ``linear`` with a parameter of the network
is a layer, in a module or in functional code. Subclasses with a padding of their own and networks without modules
therefore need no special case.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_CONVOLUTIONS = (torch.conv1d, torch.conv2d)
_NORMS = (functional.batch_norm, torch.batch_norm)
_ADDITIONS = frozenset(("add", "add_", "__add__", "__radd__", "__iadd__"))
_PASSES = frozenset(("dropout", "dropout_", "dropout2d", "feature_dropout"))


@dataclass(frozen=True)
class Use:
    """One call of a layer: its input and its settings.

    images: (N, channels, H, W); (N, positions, features) for a linear layer.
    sides: zeros that the call adds before and after each dimension, in the order of ``functional.pad``.
    given: the input in its original shape.
    bias: the argument of the call.
    """

    images: Tensor
    given: Tensor
    sides: tuple[int, ...]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    linear: bool
    bias: Tensor | None = None

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the output; (positions, 1) for a linear layer."""
        if self.linear:
            return self.images.shape[1], 1
        across, down = sum(self.sides[:2]), sum(self.sides[2:])
        padded = (self.images.shape[2] + down, self.images.shape[3] + across)
        height, width = (
            (size - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, dilation in zip(
                padded, self.kernel, self.stride, self.dilation, strict=True
            )
        )
        return height, width

    def chosen(self, positions: int, seed: int) -> Tensor:
        """(N, P) random positions of the output map of each image; all of them if there are at most ``positions``.

        They depend only on the seed and the shape, not on the distribution of images among ranks.
        """
        height, width = self.map_size
        available, images = height * width, len(self.images)
        if available <= positions:
            return torch.arange(available, device=self.images.device).expand(images, -1)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(available, (images, positions), generator=generator)
        return drawn.to(self.images.device)

    def inputs(self, chosen: Tensor) -> Tensor:
        """The inputs of the outputs at these positions: (groups, N * P, inputs * kernel positions)."""
        if self.linear:
            picked = self.images.gather(1, chosen[:, :, None].expand(-1, -1, self.images.shape[2]))
            return picked.flatten(0, 1)[None]
        width = self.map_size[1]
        padded = self._padded()
        down, along = (
            step * torch.arange(kernel, device=chosen.device)
            for step, kernel in zip(self.dilation, self.kernel, strict=True)
        )
        rows = (chosen // width * self.stride[0])[:, :, None, None] + down[:, None]
        columns = (chosen % width * self.stride[1])[:, :, None, None] + along
        image = torch.arange(len(chosen), device=chosen.device).reshape(-1, 1, 1, 1)
        windows = padded[image, :, rows, columns]  # (N, P, kernel height, kernel width, channels)
        windows = windows.movedim(-1, 2).flatten(3).flatten(0, 1)  # (N P, channels, kernel positions)
        return windows.reshape(len(windows), self.groups, -1).movedim(1, 0)

    def summed_inputs(self) -> Tensor:
        """The sum of ``inputs`` over all positions of all images: (groups, inputs * kernel positions), float64."""
        if self.linear:
            return self.images.double().sum(dim=(0, 1))[None]
        padded, (height, width) = self._padded(), self.map_size
        taps = []
        for down in range(self.kernel[0]):
            for along in range(self.kernel[1]):
                top, left = down * self.dilation[0], along * self.dilation[1]
                rows = slice(top, top + (height - 1) * self.stride[0] + 1, self.stride[0])
                columns = slice(left, left + (width - 1) * self.stride[1] + 1, self.stride[1])
                taps.append(padded[:, :, rows, columns].sum(dim=(0, 2, 3), dtype=torch.float64))
        return torch.stack(taps, dim=1).reshape(self.groups, -1)

    def _padded(self) -> Tensor:
        return functional.pad(self.images, self.sides) if any(self.sides) else self.images


def outputs_at(out: Tensor, chosen: Tensor, linear: bool) -> Tensor:
    """Outputs of a layer, or the other operand of its addition, at the chosen positions: (N * P, outputs)."""
    maps = out.reshape(len(out), -1, out.shape[-1]) if linear else out.flatten(2).movedim(1, 2)
    return maps.gather(1, chosen[:, :, None].expand(-1, -1, maps.shape[2])).flatten(0, 1)


class Watch(TorchFunctionMode):
    """While active, calls these functions for the layers of a network.

    entered(name, use): before a layer; a returned tensor replaces the input of the layer.
    left(name, output): after a layer.
    normalised(name, function, args, kwargs): after a batch normalisation of the output of a layer.
    added(names, operands): before an addition; ``names`` of the layers that produced the operands (None: no layer).
    """

    def __init__(
        self,
        names: Mapping[int, str],
        entered: Callable[[str, Use], Tensor | None] | None = None,
        left: Callable[[str, Tensor], None] | None = None,
        normalised: Callable[..., None] | None = None,
        added: Callable[[tuple[str | None, ...], tuple[Tensor, ...]], None] | None = None,
    ) -> None:
        super().__init__()
        self._names = names
        self._entered, self._left, self._normalised, self._added = entered, left, normalised, added
        self._made_by: dict[int, tuple[weakref.ref[Tensor], str]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.__name__ if hasattr(func, "__name__") else ""
        if func in _CONVOLUTIONS or func is functional.linear:
            return self._layer(func, args, kwargs)
        if func in _NORMS:
            return self._norm(func, args, kwargs)
        if name in _ADDITIONS and len(args) > 1 and not kwargs.get("alpha"):
            self._addition(args[:2])
        out = func(*args, **kwargs)
        if name in _PASSES and args:
            self._store(out, self._maker(args[0]))
        elif isinstance(out, Tensor):
            self._made_by.pop(id(out), None)  # changed in place, or a new tensor with a reused id
        return out

    def _layer(self, func: Any, args: Any, kwargs: Any) -> Any:
        given = named_arguments(
            ("input", "weight", "bias", "stride", "padding", "dilation", "groups"), args, kwargs
        )
        name = self._names.get(id(given["weight"]))
        if name is None:
            return func(*args, **kwargs)
        if self._entered is not None:
            replacement = self._entered(name, _use(func, given))
            if replacement is not None:
                given["input"] = replacement
        out = func(**given)
        if self._left is not None:
            self._left(name, out)
        self._store(out, name)
        return out

    def _norm(self, func: Any, args: Any, kwargs: Any) -> Any:
        out = func(*args, **kwargs)
        name = self._maker(args[0]) if args else None
        if name is not None and self._normalised is not None:
            self._normalised(name, func, args, kwargs)
        self._store(out, name)
        return out

    def _addition(self, operands: tuple[Any, ...]) -> None:
        names = tuple(self._maker(operand) for operand in operands)
        if self._added is not None and any(names) and all(isinstance(each, Tensor) for each in operands):
            self._added(names, operands)

    def _maker(self, tensor: Any) -> str | None:
        reference, name = self._made_by.get(id(tensor), (None, None))
        return name if reference is not None and reference() is tensor else None

    def _store(self, tensor: Any, name: str | None) -> None:
        self._made_by.pop(id(tensor), None)
        if name is not None and isinstance(tensor, Tensor):
            self._made_by[id(tensor)] = weakref.ref(tensor), name


def parameter_names(model: nn.Module) -> dict[int, str]:
    """The (first) name of each parameter, by its ``id``."""
    return {id(parameter): name for name, parameter in model.named_parameters()}


def named_arguments(
    order: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments by name."""
    return {**dict(zip(order[: len(args)], args, strict=True)), **kwargs}


def _use(func: Any, given: Mapping[str, Any]) -> Use:
    images, weight = given["input"], given["weight"]
    raw = images
    if func is functional.linear:
        rows = images.reshape(len(images), -1, images.shape[-1])
        return Use(rows, images, (), (1, 1), (1, 1), (1, 1), 1, linear=True, bias=given.get("bias"))
    kernel = tuple(weight.shape[2:])
    stride, dilation = (_pair(given.get(name, 1), len(kernel)) for name in ("stride", "dilation"))
    sides = _sides(given.get("padding", 0), kernel, dilation)
    if len(kernel) == 1:
        images, kernel, stride, dilation = images.unsqueeze(2), (1, *kernel), (1, *stride), (1, *dilation)
    settings = (tuple(sides), kernel, stride, dilation, int(given.get("groups", 1)))
    return Use(images, raw, *settings, linear=False, bias=given.get("bias"))  # type: ignore[arg-type]


def _pair(value: Any, count: int) -> tuple[int, ...]:
    entries = (value,) if isinstance(value, int) else tuple(value)
    return entries * count if len(entries) == 1 else entries


def _sides(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> list[int]:
    """Zeros before and after each dimension, the last dimension first, as ``functional.pad`` takes them."""
    if padding == "valid":
        return []
    if padding == "same":
        total = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
        pairs = [(extra // 2, extra - extra // 2) for extra in total]
    else:
        pairs = [(extra, extra) for extra in _pair(padding, len(kernel))]
    return [side for pair in reversed(pairs) for side in pair]
