"""Batch normalisation of several processes with the statistics of the images of all of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from prunelab.data.order import Shard


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``torch.nn.functional.batch_norm`` with the statistics of the images of all processes.

    Processes may have different numbers of images, each at least one. Works with every backend of torch.distributed,
    on CPUs and GPUs.
    """
    if not training:
        return functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    output, mean, variance, count = _BatchNorm.apply(input, weight, bias, eps)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            unbiased = variance * (count / (count - 1).clamp(min=1))
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    return output


class _BatchNorm(torch.autograd.Function):
    """(x, weight, bias, eps) -> normalised x, mean (C,), variance (C,), number of values per channel (1,)."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x if x.dtype == torch.float64 else x.float()
        (dims, shape), channels = _dims_and_shape(x), x.shape[1]
        local_variance, local_mean = torch.var_mean(wide, dims, correction=0)
        shard = Shard.of_this_process()
        parts = wide.new_zeros(shard.ranks, 2 * channels + 1)  # each row is filled by one process
        parts[shard.rank] = torch.cat([local_mean, local_variance, wide.new_tensor([x.numel() / channels])])
        dist.all_reduce(parts)
        means, variances, counts = parts.split([channels, channels, 1], dim=1)
        count = counts.sum(dim=0)
        mean = (means * counts).sum(dim=0) / count
        variance = ((variances + (means - mean) ** 2) * counts).sum(dim=0) / count
        inverse = torch.rsqrt(variance + eps)
        ctx.save_for_backward(x, weight, mean, inverse, count)  # type: ignore[arg-type]  # weight may be None
        ctx.has_bias = bias is not None  # type: ignore[attr-defined]
        ctx.mark_non_differentiable(mean, variance, count)
        scale = inverse if weight is None else inverse * weight
        output = (wide - mean.view(shape)) * scale.view(shape)
        output = output if bias is None else output + bias.view(shape)
        return output.to(x.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, count = ctx.saved_tensors
        dims, shape = _dims_and_shape(x)
        wide = gradient.to(mean.dtype)
        unit = (x.to(mean.dtype) - mean.view(shape)) * inverse.view(shape)
        sums = torch.stack([wide.sum(dims), (wide * unit).sum(dims)])
        of_bias, of_weight = sums.unbind()  # of the images of this process: DDP averages them
        whole = sums.clone()
        dist.all_reduce(whole)
        means = (whole / count).view(2, *shape)
        scale = inverse if weight is None else inverse * weight
        of_x = (wide - means[0] - unit * means[1]) * scale.view(shape)
        return (
            of_x.to(x.dtype),
            None if weight is None else of_weight.to(weight.dtype),
            of_bias if ctx.has_bias else None,
            None,
        )


def _dims_and_shape(x: Tensor) -> tuple[list[int], list[int]]:
    """For x (N, C, ...): the dimensions of the reduction, and the shape (1, C, 1, ...) of a statistic."""
    return [dim for dim in range(x.dim()) if dim != 1], [1, x.shape[1], *[1] * (x.dim() - 2)]
