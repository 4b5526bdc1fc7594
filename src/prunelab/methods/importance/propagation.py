"""Importance propagated backwards through a network, from its final responses to every hook point.

It is one backward pass of autograd. While the mode ``_Importance`` is active, the network computes with the absolute
values of its weights and without biases, and activations and normalisations are the identity. This network is linear,
so that the gradient of (importance x final responses) with respect to an activation is the sum over all paths of the
products of absolute weights.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from prunelab.errors import UserError
from prunelab.methods.context import PruningContext
from prunelab.methods.untouched import untouched
from prunelab.structure import HookPoint, channels_first, observe

_CONVOLUTIONS = {f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)}
_CONTRACTIONS = _CONVOLUTIONS | {"linear", "matmul", "mm"}
_ACTIVATIONS = {
    "relu", "relu6", "hardtanh", "leaky_relu", "rrelu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish",
    "hardswish", "softplus", "sigmoid", "hardsigmoid", "tanh", "clamp",
}  # fmt: skip
_DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
_NORMALISATIONS = {"layer_norm", "group_norm", "instance_norm", "local_response_norm", "rms_norm"}
_PASSED = _ACTIVATIONS | _DROPOUTS | _NORMALISATIONS
_SUMS = {"add", "sub", "__rsub__"}
_PRODUCTS = {"mul", "multiply", "div", "true_divide"}
_AVERAGE_POOLS: dict[str, Callable[..., Tensor]] = {
    "max_pool1d": functional.avg_pool1d,
    "max_pool2d": functional.avg_pool2d,
    "max_pool3d": functional.avg_pool3d,
}
_ADAPTIVE_AVERAGE_POOLS: dict[str, Callable[..., Tensor]] = {
    "adaptive_max_pool1d": functional.adaptive_avg_pool1d,
    "adaptive_max_pool2d": functional.adaptive_avg_pool2d,
    "adaptive_max_pool3d": functional.adaptive_avg_pool3d,
}


def final_response(model: nn.Module, images: Tensor) -> Tensor:
    """The input of the last convolution, linear layer or matrix product of a pass, averaged over positions: (N,
    features)."""
    last = _LastRead()
    with last:
        model(images)
    return last.features()


def propagate(
    context: PruningContext,
    importance: Tensor,
    hook_points: Collection[HookPoint],
    image_shape: tuple[int, ...],
    batch_norm_scale: bool = False,
) -> dict[HookPoint, np.ndarray]:
    """The importance (width,) of the channels of each hook point, summed over positions: float64.

    ``importance`` (features,) is that of the final responses, ``image_shape`` (C, H, W) that of an input. Average
    pooling divides importance equally among the positions of its window; so does maximum pooling, because any position
    may have the maximum. Each factor of a product of activations (a gate) has the importance of the product.

    Raises:
        UserError: the network contains another operator that is not linear.
    """
    found = {hook_point: np.zeros(hook_point.width) for hook_point in hook_points}

    def collector(hook_point: HookPoint) -> Callable[[Tensor, int], None]:
        def collect(gradient: Tensor) -> None:
            first_image = channels_first(gradient, hook_point.dim)[0]
            found[hook_point] += first_image.reshape(hook_point.width, -1).sum(dim=1).cpu().numpy()

        def read(tensor: Tensor, dim: int) -> None:
            tensor.register_hook(collect)

        return read

    last = _LastRead()
    with untouched(context.model, context.device, context.seed):
        collectors = {hook_point: collector(hook_point) for hook_point in hook_points}
        with _Importance(batch_norm_scale), last, observe(context.model, collectors):
            try:
                context.model(_probe(image_shape, context.device).requires_grad_())
            except Exception as error:  # the network itself has run, in ``final_response``
                raise UserError(
                    f"{_refusal(context.name)} It raises {type(error).__name__}: {error}"
                ) from error
        responses = last.features()
        _require_linear(responses.detach(), context.name)
        (responses[0] @ importance.to(responses)).backward()
    return found


def _probe(image_shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Two images and their sum, in float64: products of weights span many orders of magnitude."""
    first, second = torch.rand(2, *image_shape, dtype=torch.float64, device=device)
    return torch.stack([first, second, first + second])


def _require_linear(responses: Tensor, name: str) -> None:
    difference = (responses[0] + responses[1] - responses[2]).abs().max()
    if not difference <= 1e-6 * responses.abs().max():
        raise UserError(_refusal(name))


def _refusal(name: str) -> str:
    return (
        f"NISP cannot propagate importance through {name}: besides convolutions, linear layers, pooling, sums, "
        "gates and the usual activations and normalisations it computes something that is not a weighted sum of "
        "its inputs (attention, a recurrent layer, a norm written out, ...). Choose another method."
    )


class _LastRead(TorchFunctionMode):
    """Keeps the activation that the last contraction of a pass reads."""

    def __init__(self) -> None:
        super().__init__()
        self._read: Tensor | None = None
        self._dim = 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in _CONTRACTIONS:
            self._read = args[0]
            self._dim = 1 if func.__name__ in _CONVOLUTIONS else args[0].dim() - 1
        return func(*args, **(kwargs or {}))

    def features(self) -> Tensor:
        """(N, features), averaged over positions; UserError if nothing was read."""
        if self._read is None:
            raise UserError(
                "NISP needs a convolution or linear layer (its input is the final response), but none was called."
            )
        channels = channels_first(self._read, self._dim)
        return channels.flatten(2).mean(dim=2) if channels.dim() > 2 else channels


class _Importance(TorchFunctionMode):
    """The mode in which the network is linear and importance is the gradient."""

    def __init__(self, batch_norm_scale: bool) -> None:
        super().__init__()
        self._batch_norm_scale = batch_norm_scale

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not any(_flows(value) for value in args):
            return func(*args, **kwargs)
        name = func.__name__ if func.__name__.startswith("__") else func.__name__.rstrip("_")
        in_place = func.__name__ == f"{name}_" or bool(kwargs.get("inplace"))
        if name in _CONTRACTIONS:
            return _contraction(func, args, kwargs)
        if name == "batch_norm" and self._batch_norm_scale:
            return args[0] * _scale(*args, **kwargs)
        if name in _PASSED or name == "batch_norm":
            return args[0] if in_place else args[0].clone()
        if name in _AVERAGE_POOLS:
            return _average(_AVERAGE_POOLS[name], *args, **kwargs)
        if name in _ADAPTIVE_AVERAGE_POOLS:
            return _ADAPTIVE_AVERAGE_POOLS[name](args[0], args[1])
        if name in _SUMS or (name in _PRODUCTS and _flows(args[0]) and _flows(args[1])):
            return _sum(args[0], args[1], in_place)
        if name in _PRODUCTS:
            return func(*(_magnitude(value) for value in args), **kwargs)
        return func(*args, **kwargs)


def _flows(value: Any) -> bool:
    """Whether a value depends on the input of the network: parameters require no gradient here."""
    return isinstance(value, Tensor) and value.requires_grad


def _magnitude(value: Any) -> Any:
    """The absolute value of a weight, in float64; activations are not changed."""
    if isinstance(value, Tensor):
        return value if value.requires_grad else value.double().abs()
    return abs(value) if isinstance(value, int | float) else value


def _contraction(func: Any, args: Any, kwargs: Any) -> Tensor:
    """A contraction (input, weight, bias, ...) with the weight's magnitude and no bias."""
    both = [_magnitude(value) for value in args[:2]]
    without_bias = [None, *args[3:]] if len(args) > 2 else []
    kwargs = {name: _magnitude(value) if name == "weight" else value for name, value in kwargs.items()}
    kwargs.pop("bias", None)
    return func(*both, *without_bias, **kwargs)


def _average(
    pool: Callable[..., Tensor],
    activation: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    **_: Any,
) -> Tensor:
    """Average pooling with the settings of a maximum pooling."""
    return pool(activation, kernel_size, stride, padding, ceil_mode)


def _sum(first: Any, second: Any, in_place: bool) -> Tensor:
    """The sum of values that depend on the input; a constant contributes only its shape."""
    first, second = (value if _flows(value) else _nothing(value) for value in (first, second))
    return first.add_(second) if in_place else first + second


def _nothing(constant: Any) -> Any:
    return torch.zeros_like(constant) if isinstance(constant, Tensor) else 0


def _scale(
    activation: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    eps: float = 1e-5,
    **_: Any,
) -> Tensor:
    """|gamma| / sqrt(variance + eps) of a batch normalisation, shaped to multiply its input."""
    scale = activation.new_ones(activation.shape[1])
    if variance is not None:
        scale = scale / (variance.to(scale) + eps).sqrt()
    if weight is not None:
        scale = scale * weight.to(scale).abs()
    return scale.reshape(-1, *[1] * (activation.dim() - 2))
