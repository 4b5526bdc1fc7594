"""Rules: the channels of the results of each ATen operator.

A rule is a function ``(ledger, op, args, kwargs, inputs, outputs) -> list[Marked]``, which returns the mark of each
output tensor. It may tie, freeze or mark ids through the ledger. An operator without a rule freezes the channels of its
inputs.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from prunelab.structure.tracing.rules import (
    contract,
    index,
    normalise,
    pieces,
    pointwise,
    recurrent,
    reduce,
    shape,
    spatial,
)
from prunelab.structure.tracing.rules.common import Rule, unknown

_RULES: dict[str, Rule] = {
    **contract.RULES,
    **index.RULES,
    **normalise.RULES,
    **pieces.RULES,
    **pointwise.RULES,
    **recurrent.RULES,
    **reduce.RULES,
    **shape.RULES,
    **spatial.RULES,
}


@cache
def rule_for(func: Any) -> Rule:
    """The rule of an ATen overload: by name, else by PyTorch's own ``pointwise`` tag, else ``unknown``."""
    rule = _RULES.get(func.overloadpacket.__name__)
    if rule is not None:
        return rule
    if torch.Tag.pointwise in func.tags:
        return pointwise.pointwise
    return unknown


__all__ = ["Rule", "rule_for"]
