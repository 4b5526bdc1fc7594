"""What a trace records: tensors and the channels they carry, reads, costs, module calls."""

from __future__ import annotations

from dataclasses import dataclass, field

from prunelab.structure.tracing.calls import Call
from prunelab.structure.tracing.ids import ChannelIds, Ids

Dims = list[Ids | None]
Settings = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool, int]
"""Stride, padding and dilation of a convolution, whether it is transposed, and its groups."""


@dataclass(eq=False)
class Marked:
    """What is known of one tensor of the run.

    ``dims[d]`` holds the channel id of every index of dimension d, or None where d carries no channels.
    """

    shape: tuple[int, ...]
    dims: Dims
    kind: str = "other"  # pointwise | add | mul | transport | produce | carry | source | weight | other
    op: str = ""
    parents: tuple[Marked, ...] = ()
    activation: bool = False  # depends on the network's input, not on parameters alone
    uniform: bool = False  # filled with one value (zeros, ones): any width of it means the same
    zero: bool = False  # filled with zeros
    followed: bool = True  # not what only a backward pass would use: its shape is not looked at
    spread: frozenset[int] = frozenset()  # dimensions along which one value was repeated (``expand``)
    statistics: tuple[Ids, ...] = ()  # reduced over these channels; only a normalisation may use it
    tensor: str | None = None  # the parameter or buffer that this is
    call: Call | None = None  # the Python-level call that returned it
    made_in: Call | None = None  # the Python-level call that it was made in

    @property
    def carries(self) -> bool:
        """Whether any dimension carries channels."""
        return any(ids is not None for ids in self.dims)


@dataclass(frozen=True)
class Read:
    """A contraction (convolution, matrix product) that reads the channels of one dimension of an activation."""

    source: Marked
    dim: int


@dataclass(frozen=True)
class Term:
    """``coefficient`` x product over ``factors`` of (number of kept ids): a share of the network's FLOPs."""

    coefficient: float
    factors: tuple[Ids, ...]
    modules: tuple[str, ...]  # the running modules, outermost first
    step: int  # number of the operator in ``Trace.steps``
    bias: bool = False


@dataclass(frozen=True)
class Gather:
    """``index_select`` by an integer buffer whose values point into ``source`` ids (the last is a zero channel)."""

    buffer: str
    source: Ids
    values: Ids


@dataclass(frozen=True)
class Claim:
    """A constant of the traced program that stands for a position or a number of channels.

    In a pruned network it must equal the number of kept ids among ``counted``.
    """

    value: int
    counted: Ids


@dataclass(frozen=True, eq=False)
class Step:
    """One traced operator: its outputs and the constants it carried."""

    op: str
    call: Call
    inputs: tuple[Marked, ...]
    outputs: tuple[Marked, ...]
    claims: tuple[Claim, ...]
    numbers: tuple[float, ...] = ()  # what elementwise arithmetic calculates with
    settings: Settings | None = None  # of a convolution

    @property
    def module(self) -> str:
        """The path of the module it ran in."""
        return self.call[0]

    @property
    def on_activations(self) -> bool:
        """Whether it handles what depends on the network's input (a written-out ``torch.tensor(2.0)`` does not)."""
        return self.op != "lift_fresh" and any(marked.activation for marked in self.inputs)


@dataclass(frozen=True)
class Visit:
    """One call of a module: the first tensor that went in and the only tensor that came out."""

    module: str
    entered: Marked | None
    left: Marked | None


@dataclass
class Trace:
    """Everything one run showed.

    ``numbers``: (module, attribute that counts its groups) -> one id of each group; groups that lose all channels go.
    """

    ids: ChannelIds = field(default_factory=ChannelIds)
    steps: list[Step] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    gathers: list[Gather] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)
    roles: dict[tuple[str, int], str] = field(default_factory=dict)
    sums: list[tuple[Ids, Ids]] = field(default_factory=list)
    gates: list[Ids] = field(default_factory=list)
    splits: dict[int, tuple[Ids, int]] = field(default_factory=dict)
    numbers: dict[tuple[str, str], Ids] = field(default_factory=dict)

    def role(self, marked: Marked, dim: int, role: str) -> None:
        """Remember what dimension ``dim`` of a weight is for, through whatever was computed from the parameter.

        The first word stands.
        """
        ids = marked.dims[dim]
        if ids is not None and not marked.activation:
            for origin in self.ids.origins_of(ids):
                self.roles.setdefault((origin.tensor, origin.dim), role)
