"""The channels of outputs are kept in any container; containers that cannot be read raise errors."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunelab
from prunelab.errors import UserError

pytestmark = pytest.mark.slow


class Named(NamedTuple):
    early: Tensor
    late: Tensor


@dataclass(frozen=True)
class Data:
    early: Tensor
    late: Tensor


class Plain:
    def __init__(self, early: Tensor, late: Tensor) -> None:
        self.early, self.late = early, late


class Slotted:
    __slots__ = ("early", "late", "unset")

    def __init__(self, early: Tensor, late: Tensor) -> None:
        self.early, self.late = early, late


class Backbone(nn.Module):
    """Returns the features of its first and last layer, wrapped."""

    def __init__(self, wrap: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 3), nn.Conv2d(10, 6, 3)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        early = F.relu(self.a(x))
        return self.wrap(early, self.c(F.relu(self.b(early))))


def cyclic(early: Tensor, late: Tensor) -> Plain:
    made = Plain(early, late)
    made.self = made  # type: ignore[attr-defined]
    return made


WRAPPED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "dict": lambda early, late: {"early": early, "late": late},
    "ordered dict": lambda early, late: OrderedDict(early=early, late=late),
    "another mapping": lambda early, late: UserDict(early=early, late=late),
    "list": lambda early, late: [early, late],
    "tuple": lambda early, late: (early, None, "name", late),
    "nested": lambda early, late: {"features": [early, (late,)], "size": late.shape},
    "named tuple": Named,
    "data class": Data,
    "list of data classes": lambda early, late: [Data(early, late)],
    "object": Plain,
    "object that holds itself": cyclic,
    "object with slots": Slotted,
    "distribution": lambda early, late: (
        torch.distributions.Normal(early.mean((2, 3)), 1.0, validate_args=False),
        late,
    ),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_outputs_are_kept(thin: Callable[..., Any], kind: str) -> None:
    images = torch.randn(2, 3, 8, 8)
    thinned = thin(Backbone(WRAPPED[kind]), images)
    assert [group.name for group in thinned.graph.groups] == ["b"]
    assert {group.name: group.frozen for group in thinned.graph.frozen} == dict.fromkeys(
        ("a", "c"), "output of the network"
    )
    error = prunelab.check(thinned.original, thinned.model, thinned.plan, images)
    assert error < 1e-9


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [
        (lambda early, late: (each for each in (early, late)), "generator"),
        (lambda early, late: [late, lambda: early], "function"),
        (lambda early, late: iter([early, late]), "list_iterator"),
    ],
)
def test_an_unreadable_container_is_an_error(wrap: Callable[..., Any], kind: str) -> None:
    with pytest.raises(UserError, match=f"returns a {kind}, in which prunelab cannot find tensors"):
        prunelab.analyze(Backbone(wrap), torch.randn(1, 3, 8, 8))


def test_a_network_without_output_is_an_error() -> None:
    with pytest.raises(UserError, match="returns no tensor"):
        prunelab.analyze(Backbone(lambda early, late: "done"), torch.randn(1, 3, 8, 8))
