"""``nn.MultiheadAttention`` with any number of heads and any width of the residual stream.

PyTorch's module computes the width of its heads from the width of its input, so that neither can be changed alone. This
subclass has the same parameters and the same results, and takes all widths from its weights.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class SlimAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` with the same arguments and results, whose heads and inputs can be removed."""

    @property
    def _qkv_same_embed_dim(self) -> bool:
        """False: ``nn.TransformerEncoderLayer`` then calls ``forward`` instead of a fused operator."""
        return False

    @_qkv_same_embed_dim.setter
    def _qkv_same_embed_dim(self, value: bool) -> None:
        vars(self)["_qkv_same_embed_dim"] = value

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``nn.MultiheadAttention.forward``."""
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        batched = query.dim() == 3
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (
            functional.linear(x, weight, bias).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), self._weights(), self._biases(), strict=True)
        )
        mask = self._mask(attn_mask, key_padding_mask, q)
        weights: Tensor | None = None
        if need_weights:
            products = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
            weights = (products if mask is None else products + mask).softmax(-1)
            weights = functional.dropout(weights, self.dropout, self.training)
            out = weights @ v
        else:
            out = functional.scaled_dot_product_attention(
                q, k, v, mask, dropout_p=self.dropout if self.training else 0.0
            )
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), weights

    def _weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """The weights of queries, keys and values."""
        packed = cast(Tensor | None, self.in_proj_weight)
        if packed is None:
            return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        return cast(tuple[Tensor, Tensor, Tensor], packed.chunk(3))

    def _biases(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        if self.in_proj_bias is None:
            return None, None, None
        return cast(tuple[Tensor, Tensor, Tensor], self.in_proj_bias.chunk(3))

    def _mask(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor) -> Tensor | None:
        """The sum of both masks, for (N, heads, queries, keys); None without masks."""
        total: Tensor | None = None
        if attn_mask is not None:
            attn_mask = _added(attn_mask, q)
            total = attn_mask if attn_mask.dim() == 2 else attn_mask.unflatten(0, (-1, self.num_heads))
        if key_padding_mask is not None:
            padding = _added(key_padding_mask, q)[:, None, None, :]
            total = padding if total is None else total + padding
        return total


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as numbers that are added to the products: True becomes -inf."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))


def slim(module: nn.Module) -> bool:
    """Make ``module`` a ``SlimAttention`` if it is an ``nn.MultiheadAttention`` whose widths can be changed; returns
    whether it was changed."""
    if type(module) is not nn.MultiheadAttention or module.bias_k is not None or module.add_zero_attn:
        return False
    module.__class__ = SlimAttention
    return True


def restore(module: nn.Module) -> None:
    """Make a ``SlimAttention`` of unchanged widths PyTorch's module again."""
    if isinstance(module, SlimAttention) and _is_whole(module):
        module.__class__ = nn.MultiheadAttention  # type: ignore[assignment]


def _is_whole(module: SlimAttention) -> bool:
    width = module.num_heads * module.head_dim
    made = {weight.shape[0] for weight in module._weights()}
    return (
        made == {width} == {module.embed_dim, module.out_proj.weight.shape[0], module._weights()[0].shape[1]}
    )
