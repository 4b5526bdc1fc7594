"""LowRank: how the layers of a network are factorised; the choices of conf/lowrank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from prunelab.errors import UserError, nearest
from prunelab.evaluation.target import Target

Decomposition = Literal["none", "svd", "tucker", "cp"]
Resource = Literal["flops", "params", "latency"]
RULES = (*get_args(Resource), "ranks")
SVD_FORMS = ("channel", "spatial")


@dataclass(frozen=True)
class LowRank:
    """The decomposition of convolutions and linear layers, and the rule for their ranks.

    Exactly one of ``flops``, ``params``, ``latency`` and ``ranks`` is given.

    Args:
        decomposition: "svd" (Zhang et al., IEEE TPAMI 2016, arXiv:1505.06798; Jaderberg et al., BMVC 2014,
            arXiv:1405.3866), "tucker" (Tucker-2; Kim et al., ICLR 2016, arXiv:1511.06530), "cp" (Lebedev et al., ICLR
            2015, arXiv:1412.6553), or "none".
        flops: fraction of the network's FLOPs that is kept, in (0, 1].
        params: fraction of its parameters, in (0, 1].
        latency: fraction of the time of its forward pass on ``target``, in (0, 1]; networks are built and measured as
            for a latency budget of pruning.
        target: where the latency counts; None: onnxruntime on this machine, see ``Target``.
        ranks: "vbmf" (estimated for each layer from its weights), or layer -> rank; a list [inputs, outputs] for
            Tucker. Layers that are not named are left alone.
        forms: of "svd": "channel" (k x k, then 1 x 1) and "spatial" (k x 1, then 1 x k); each layer gets the one that
            loses less at its cost.
        images: number of training images for the responses of layers; 0: the weights alone are approximated.
        reconstruct: refit the last layer of each sequence, and all other layers, to the responses of the network
            before, layer by layer (``prunelab.calibration.LeastSquares``). Needs images.
        divisor: ranks are multiples of it; 8 suits most hardware, and is used for a latency if this is 1.
        exclude: paths of layers that are left alone.
        recover: in a run: train after the factorisation, as the recipe's last training.

    Raises:
        UserError: an invalid value, or a combination that does not exist.

    Example:
        >>> prunelab.LowRank("svd", flops=0.5).title
        'svd, flops=0.5'
    """

    decomposition: Decomposition = "none"
    flops: float | None = None
    params: float | None = None
    latency: float | None = None
    target: Target | None = None
    ranks: Literal["vbmf"] | Mapping[str, Any] | None = None
    forms: Sequence[str] = SVD_FORMS
    images: int = 256
    reconstruct: bool = True
    divisor: int = 1
    exclude: Sequence[str] = ()
    recover: bool = True

    def __post_init__(self) -> None:
        if self.decomposition not in get_args(Decomposition):
            known = get_args(Decomposition)
            raise UserError(
                f"lowrank={self.decomposition} does not exist. {nearest(str(self.decomposition), known)}"
            )
        for name, least in (("images", 0), ("divisor", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(f"lowrank.{name} must be a whole number of at least {least}, not {value!r}.")
        for name in ("forms", "exclude"):
            if isinstance(getattr(self, name), str):
                raise UserError(f"lowrank.{name}={getattr(self, name)!r} is one word: write a list.")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.forms or (unknown := [form for form in self.forms if form not in SVD_FORMS]):
            raise UserError(
                f"lowrank.forms={list(self.forms)}: choose from {', '.join(SVD_FORMS)}, at least one."
                if not self.forms
                else f"lowrank.forms: there is no form {unknown[0]!r}. {nearest(str(unknown[0]), SVD_FORMS)}"
            )
        if self.decomposition != "none":
            self._check_rule()

    def _check_rule(self) -> None:
        given = [name for name in RULES if getattr(self, name) is not None]
        if len(given) != 1:
            listed = " and ".join(f"lowrank.{name}" for name in given) or "none"
            raise UserError(
                "Exactly one of lowrank.flops, lowrank.params, lowrank.latency and lowrank.ranks determines the ranks; "
                f"given: {listed}. Set the others to null."
            )
        if self.target is not None and self.latency is None:
            raise UserError(f"target={self.target} has no effect without lowrank.latency.")
        for name in get_args(Resource):
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1
            ):
                raise UserError(f"lowrank.{name}={value} is not a fraction to keep, above 0 and up to 1.")
        if not isinstance(self.ranks, Mapping | None) and self.ranks != "vbmf":
            raise UserError(
                f"lowrank.ranks={self.ranks!r}: write vbmf, or a rank for each layer, such as {{layer1.0.conv1: 8}}."
            )

    @property
    def resource(self) -> Resource:
        """The resource of the budget; FLOPs if no budget determines the ranks."""
        return next((name for name in get_args(Resource) if getattr(self, name) is not None), "flops")

    @property
    def keep(self) -> float | None:
        """The fraction of the resource that is kept; None if no budget determines the ranks."""
        keep: float | None = getattr(self, self.resource)
        return keep

    @property
    def goal(self) -> Target:
        """The target of a latency: the given one, or the default."""
        return self.target or Target()

    @property
    def step(self) -> int:
        """The number of which ranks are multiples."""
        return self.goal.divisor if self.divisor == 1 and self.latency is not None else self.divisor

    @property
    def title(self) -> str:
        """``svd, flops=0.7``; empty for none."""
        rule = next((name for name in RULES if getattr(self, name) is not None), "ranks")
        value = "given" if isinstance(self.ranks, Mapping) else getattr(self, rule)
        return "" if self.decomposition == "none" else f"{self.decomposition}, {rule}={value}"
