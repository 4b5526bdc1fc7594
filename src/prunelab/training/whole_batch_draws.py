"""Random numbers that one process would draw for the whole batch, where several processes share its images.

Image i of rank r is image ``i * ranks + r`` of the whole batch (``data/order.py``). Each rank draws for the whole batch
and keeps the numbers of its own images. All ranks thus consume the same numbers, and their generators stay equal.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from prunelab.data.order import Shard

DROPOUTS: frozenset[Any] = frozenset(
    {
        functional.dropout,
        functional.dropout1d,
        functional.dropout2d,
        functional.dropout3d,
        functional.alpha_dropout,
        functional.feature_alpha_dropout,
    }
)
FILLED: frozenset[Any] = frozenset(
    {Tensor.bernoulli_, Tensor.uniform_, Tensor.normal_, Tensor.exponential_, Tensor.random_}
)
"""Methods that fill a tensor with random numbers in place."""
DRAWN_LIKE: frozenset[Any] = frozenset({torch.rand_like, torch.randn_like, torch.bernoulli})
"""Functions of a tensor that return random numbers of its shape."""
DRAWN: frozenset[Any] = frozenset({torch.rand, torch.randn})
"""Functions of a shape that return random numbers."""
ATTENTION: Any = functional.scaled_dot_product_attention
MULTI_HEAD: Any = functional.multi_head_attention_forward
MULTI_HEAD_ARGUMENTS = inspect.signature(functional.multi_head_attention_forward)


@dataclass(frozen=True)
class WholeBatchDraws:
    """Calls of torch functions, with random numbers for the images of all processes.

    shard: the part of the whole batch that this process holds.
    images: the number of its images.
    """

    shard: Shard
    images: int

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """``func(*args, **kwargs)``, with the random numbers that one process would draw for the whole batch."""
        if func in DROPOUTS and self._has_images(_first(args, kwargs)):
            return self._kept(self._drawn(func, args, kwargs))
        if func is ATTENTION:
            return self._attention(args, kwargs)
        if func is MULTI_HEAD:
            return self._multi_head(args, kwargs)
        if kwargs.get("generator") is None:
            if func in DRAWN:
                return self._of_shape(func, args, kwargs)
            if func in FILLED | DRAWN_LIKE and self._is_batch(args[0]):
                drawn = self._kept(self._drawn(func, args, kwargs))
                return args[0].copy_(drawn) if func in FILLED else drawn
        return func(*args, **kwargs)

    def _drawn(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """``func`` of the whole batch; its first argument may be given by name."""
        if args:
            return func(self._whole(args[0]), *args[1:], **kwargs)
        return func(**kwargs | {"input": self._whole(kwargs["input"])})

    def _of_shape(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """``torch.rand`` or ``torch.randn``: a batch if the shape has two or more dimensions, first the images."""
        named = "size" in kwargs
        size = kwargs["size"] if named else args[0] if args and not isinstance(args[0], int) else args
        if len(size) < 2 or size[0] != self.images:
            return func(*args, **kwargs)
        rest = {name: value for name, value in kwargs.items() if name != "size"}
        return self._kept(func((self.shard.ranks * size[0], *size[1:]), **rest))

    def _attention(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Scaled dot product attention; the other images are zeros, whose attention takes time as well."""
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = dict(zip(names, args, strict=False)) | kwargs
        query, mask = given["query"], given.get("attn_mask")
        if not given.get("dropout_p") or not self._has_images(query) or len(given["key"]) != len(query):
            return ATTENTION(*args, **kwargs)
        if isinstance(mask, Tensor) and mask.dim() == query.dim() and len(mask) == len(query):
            given["attn_mask"] = self._whole(mask, other=True if mask.dtype is torch.bool else 0)
        return self._kept(
            ATTENTION(**given | {name: self._whole(given[name]) for name in ("query", "key", "value")})
        )

    def _multi_head(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """``nn.MultiheadAttention``: the images are the second dimension of query, key and value (length, N, width)."""
        given = MULTI_HEAD_ARGUMENTS.bind(*args, **kwargs).arguments
        query = given["query"]
        training = given.get("training", True) and given["dropout_p"]
        if not training or query.dim() != 3 or not self._has_images(query, dim=1):
            return MULTI_HEAD(**given)
        wholes: dict[int, Tensor] = {}  # query and key may be one tensor, which selects the implementation
        for name in ("query", "key", "value"):
            if id(given[name]) not in wholes:
                wholes[id(given[name])] = self._whole(given[name], dim=1)
        whole = {name: wholes[id(given[name])] for name in ("query", "key", "value")}
        for name in ("key_padding_mask", "attn_mask", "static_k", "static_v"):
            tensor = given.get(name)
            if isinstance(tensor, Tensor) and (name != "attn_mask" or tensor.dim() == 3):
                whole[name] = self._whole(tensor)
        output, weights = MULTI_HEAD(**given | whole)
        return self._kept(output, dim=1), None if weights is None else self._kept(weights)

    def _is_batch(self, tensor: Any) -> bool:
        """Whether a tensor has two or more dimensions with the images as the first one; weights of layers are
        excluded."""
        return self._has_images(tensor) and len(tensor) == self.images

    def _has_images(self, tensor: Any, dim: int = 0) -> bool:
        """Whether a dimension is the images, or several rows of each image (windows, heads)."""
        known = isinstance(tensor, Tensor) and not isinstance(tensor, nn.Parameter)
        return known and tensor.dim() > 1 and tensor.shape[dim] > 0 and tensor.shape[dim] % self.images == 0

    def _whole(self, own: Tensor, dim: int = 0, other: Any = 0) -> Tensor:
        """The whole batch with the rows of this process in their places, and ``other`` in the rest.

        Its memory has the order of ``own``, because torch draws numbers in the order of memory.
        """
        sizes = [size * self.shard.ranks if place == dim else size for place, size in enumerate(own.shape)]
        strides = torch.empty_like(own, device="meta").stride()
        order = sorted(range(own.dim()), key=lambda place: strides[place], reverse=True)
        whole = own.new_full([sizes[place] for place in order], other)
        whole = whole.permute([order.index(place) for place in range(own.dim())])
        return whole.index_copy_(dim, self._rows(own.shape[dim]).to(own.device), own)

    def _kept(self, whole: Tensor, dim: int = 0) -> Tensor:
        """The rows of this process."""
        rows = self._rows(whole.shape[dim] // self.shard.ranks)
        return whole.index_select(dim, rows.to(whole.device))

    def _rows(self, own: int) -> Tensor:
        """The places (own,) of the rows of this process in the whole batch."""
        per_image = own // self.images
        first = (torch.arange(self.images) * self.shard.ranks + self.shard.rank) * per_image
        return (first[:, None] + torch.arange(per_image)).flatten()


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs.get("input")
