"""The content of a trace: tensors with the channels that they carry, contractions, costs, module calls."""

from __future__ import annotations

from dataclasses import dataclass, field

from prunelab.structure.tracing.calls import Call
from prunelab.structure.tracing.ids import ChannelIds, Ids

Dims = list[Ids | None]
Place = tuple[Call, int]
"""A Python-level call, and a number among the operators of a kind in it."""
Settings = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool, int]
"""Stride, padding and dilation of a convolution, whether it is transposed, and its groups."""


@dataclass(eq=False)
class Marked:
    """A tensor of the run.

    ``dims[d]`` holds the channel id of every index of dimension d, or None where d carries no channels.
    """

    shape: tuple[int, ...]
    dims: Dims
    kind: str = "other"  # pointwise | add | mul | transport | produce | carry | source | weight | other
    op: str = ""
    parents: tuple[Marked, ...] = ()
    activation: bool = False  # depends on the network's input, not on parameters alone
    uniform: bool = False  # filled with one value (zeros, ones): its width is arbitrary
    zero: bool = False  # filled with zeros
    followed: bool = True  # False for what only a backward pass uses: its shape is not compared
    spread: frozenset[int] = frozenset()  # dimensions that repeat one value (``expand``)
    statistics: tuple[
        Ids, ...
    ] = ()  # the channels that it is a statistic over; only normalisations may use it
    tensor: str | None = None  # the name of the parameter or buffer, if it is one
    call: Call | None = None  # the Python-level call that returned it
    made_in: Call | None = None  # the Python-level call in which it was made
    split: Place | None = None  # the view that made it by splitting a channel dimension

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
    """``index_select`` by an integer buffer of positions in ``source``, the last of which is a channel of zeros."""

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
    """One traced operator with its inputs, outputs and constant arguments."""

    op: str
    call: Call
    inputs: tuple[Marked, ...]
    outputs: tuple[Marked, ...]
    claims: tuple[Claim, ...]
    numbers: tuple[float, ...] = ()  # the constants of elementwise arithmetic
    settings: Settings | None = None  # of a convolution

    @property
    def module(self) -> str:
        """The path of the module that ran it."""
        return self.call[0]

    @property
    def on_activations(self) -> bool:
        """Whether an input depends on the network's input (a constant ``torch.tensor(2.0)`` does not)."""
        return self.op != "lift_fresh" and any(marked.activation for marked in self.inputs)


@dataclass(frozen=True)
class Visit:
    """One call of a module: its first input tensor, its output if that is a tensor or a tuple of one (``wrapped``), and
    the numbers of the first step that it ran and of the first after it."""

    module: str
    entered: Marked | None
    left: Marked | None
    start: int
    end: int
    wrapped: bool = False


@dataclass
class Trace:
    """Everything that one run has recorded.

    ``splits``: the views that split a channel dimension: its ids, and the number of parts that can carry them.
    ``to_other_part``: those of them whose result is multiplied by heads, but has its channels elsewhere.
    ``contracted``: those of them whose channels are contracted with those of another activation.

    ``parts``: the channels that a slice, a split or an index takes from a dimension with more, and those among which
    the program computes their position: all of the dimension, or for an index the same.

    ``scaled``: numbers of the steps whose constants are computed from a width (``x * width ** -0.5``).

    ``numbers``: (module, attribute that counts its groups) -> one id of each group; the count decreases by the groups
    that lose all channels.
    """

    ids: ChannelIds = field(default_factory=ChannelIds)
    steps: list[Step] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    gathers: list[Gather] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)
    roles: dict[tuple[str, int], str] = field(default_factory=dict)
    sums: list[tuple[Ids, Ids]] = field(default_factory=list)
    parts: list[tuple[Ids, Ids]] = field(default_factory=list)
    gates: list[Ids] = field(default_factory=list)
    splits: dict[Place, tuple[Ids, int]] = field(default_factory=dict)
    to_other_part: set[Place] = field(default_factory=set)
    contracted: set[Place] = field(default_factory=set)
    scaled: set[int] = field(default_factory=set)
    numbers: dict[tuple[str, str], Ids] = field(default_factory=dict)

    def continued(self) -> Trace:
        """A trace for another run of the same network: it starts with the ids, roles and ties of this one."""
        return Trace(
            ids=self.ids.copy(),
            gathers=list(self.gathers),
            roles=dict(self.roles),
            sums=list(self.sums),
            parts=list(self.parts),
            gates=list(self.gates),
            numbers=dict(self.numbers),
        )

    def adopt(self, later: Trace) -> None:
        """Take over everything that ``later``, which continued this trace, has found about ids. Steps, costs, reads and
        visits remain those of this run."""
        self.ids, self.gathers, self.roles = later.ids, later.gathers, later.roles
        self.sums, self.gates, self.numbers = later.sums, later.gates, later.numbers
        self.parts = later.parts

    def met(self) -> set[str]:
        """The names of the parameters and buffers that an operator has read."""
        return {marked.tensor for step in self.steps for marked in step.inputs if marked.tensor is not None}

    def role(self, marked: Marked, dim: int, role: str) -> None:
        """Record the role of dimension ``dim`` of a weight, also of one that was computed from parameters.

        The first role of a dimension is kept.
        """
        ids = marked.dims[dim]
        if ids is not None and not marked.activation:
            for origin in self.ids.origins_of(ids):
                self.roles.setdefault((origin.tensor, origin.dim), role)
