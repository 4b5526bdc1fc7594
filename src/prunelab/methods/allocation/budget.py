"""Budget: the fraction of a resource that a pruned network may keep."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from prunelab.errors import UserError
from prunelab.evaluation.target import Target

Resource = Literal["flops", "params", "latency"]


@dataclass(frozen=True)
class Budget:
    """The fraction of exactly one resource that a pruned network may keep.

    ``Budget(flops=0.5)``: at most half of the FLOPs; ``Budget(params=0.3)``: at most 30 % of the parameters.

    Args:
        flops: fraction of the FLOPs (survey convention: 2 x MAC + bias, one image), in (0, 1].
        params: fraction of the parameters, in (0, 1].
        latency: fraction of the time of a forward pass, in (0, 1].
        target: where the latency counts; None: onnxruntime on this machine, see ``Target``.

    Raises:
        UserError: no resource, more than one, a fraction outside (0, 1], or a target without a latency.

    Example:
        >>> budget = prunelab.Budget(flops=0.5)
        >>> budget.resource, budget.keep
        ('flops', 0.5)
    """

    flops: float | None = None
    params: float | None = None
    latency: float | None = None
    target: Target | None = None

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in get_args(Resource)}
        given = {name: keep for name, keep in given.items() if keep is not None}
        if not given:
            raise UserError(
                "The budget is empty: set how much to keep, for example budget.flops=0.5 (half of the FLOPs)."
            )
        if len(given) > 1:
            listed = " and ".join(f"budget.{name}={keep}" for name, keep in given.items())
            first, *others = given
            unset = " ".join(f"budget.{name}=null" for name in others)
            raise UserError(
                f"A budget limits one resource, but {listed} were both given: "
                f"keep one and set the other to null ({unset} to budget {first})."
            )
        ((name, keep),) = given.items()
        if isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep <= 1:
            raise UserError(
                f"budget.{name}={keep} is not a fraction to keep: use a number above 0 and up to 1, "
                f"such as budget.{name}=0.5 for one half."
            )
        if self.target is not None and self.latency is None:
            raise UserError(f"target={self.target} has no effect on budget.{name}: it belongs to a latency.")

    @property
    def resource(self) -> Resource:
        """The resource that is limited."""
        return next(name for name in get_args(Resource) if getattr(self, name) is not None)

    @property
    def keep(self) -> float:
        """The fraction of it that may be kept, in (0, 1]."""
        return float(getattr(self, self.resource))

    def keeping(self, keep: float) -> Budget:
        """The same resource and target with another fraction, in (0, 1]."""
        if self.resource == "flops":
            return replace(self, flops=keep)
        return replace(self, params=keep) if self.resource == "params" else replace(self, latency=keep)

    @property
    def goal(self) -> Target:
        """The target of a latency budget: the given one, or the default."""
        return self.target or Target()

    def __str__(self) -> str:
        return f"budget.{self.resource}={self.keep:g}"
