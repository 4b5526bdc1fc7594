"""Constant widths in a reshape of a forward pass: attention heads are still units."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunelab
from prunelab.errors import UserError
from prunelab.structure.surgery.candidate import candidate

TOKENS = torch.linspace(-1, 1, 2 * 5 * 7).reshape(2, 5, 7).sin()


class Attention(nn.Module):
    """The usual form of attention modules: C is the width of the input and that of all heads together."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, (width // num_heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.drop = 0.0

    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attn = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
        if self.training:
            attn = F.dropout(attn, self.drop)
        return self.proj(self.joined(attn @ v, C)) + shift

    def joined(self, heads: Tensor, C: int) -> Tensor:
        B, _, N, _ = heads.shape
        return heads.transpose(1, 2).reshape(B, N, C)


class Transformer(nn.Module):
    """Two attentions in a stream."""

    def __init__(
        self,
        attention: Callable[[int, int], nn.Module] = Attention,
        width: int = 12,
        num_heads: int = 4,
        times: int = 1,
    ) -> None:
        super().__init__()
        self.times = times
        self.embed = nn.Linear(7, width // times)
        self.first, self.second = attention(width, num_heads), attention(width, num_heads)
        self.last = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).repeat(1, 1, self.times)
        x = x + self.first(x)
        x = x + self.second(x)
        return self.last(x.mean(1))


def pruned(keep: dict[str, list[int]] | None = None) -> tuple[nn.Module, Any, nn.Module]:
    """A network, a plan, and the pruned network."""
    model = Transformer().eval()
    graph = prunelab.analyze(model, TOKENS)
    plan = graph.plan(keep or {"first.qkv": [1, 3], "second.qkv": [0, 1, 3], "embed": list(range(2, 11))})
    return model, plan, prunelab.apply(copy.deepcopy(model), plan)


def test_heads_and_stream_are_pruned(exact: Callable[..., Any]) -> None:
    pruning = exact(Transformer(), TOKENS)
    assert pruning.groups == {
        "embed": ("stage", 12),
        "first.qkv": ("filter", 4),
        "second.qkv": ("filter", 4),
    }
    assert pruning.frozen == {}
    assert pruning.model.first.num_heads == pruning.plan.widths["first.qkv"][1] < 4


@pytest.mark.parametrize("kept", [{"first.qkv": [1]}, {"embed": [0]}, {"embed": [1], "second.qkv": [0]}])
def test_widths_that_agree_by_chance(prune: Callable[..., Any], kept: dict[str, list[int]]) -> None:
    """Stream and heads can lose only one of two: C is then right if both do, and wrong if one does."""
    assert prune(Transformer(width=6, num_heads=2, times=3), TOKENS, kept=kept).error < 1e-9


class Chunked(Attention):
    """Queries, keys and values of a head are adjacent."""

    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        B, N, C = x.shape
        heads = self.qkv(x).view(B, N, self.num_heads, -1).transpose(1, 2)
        q, k, v = heads.chunk(3, dim=3)
        attn = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
        return self.proj(self.joined(attn @ v, C)) + shift


@pytest.mark.parametrize("attention", [Attention, Chunked])
def test_one_of_two_heads_can_go(prune: Callable[..., Any], attention: type[nn.Module]) -> None:
    """A dimension of size 1 remains, whose position gives no information."""
    model = Transformer(attention, num_heads=2)
    assert prune(model, TOKENS, kept={"first.qkv": [1], "second.qkv": [0]}).error < 1e-9


class Repeated(Attention):
    """The same size is written out in many calls, any of which may be the one that fails."""

    def joined(self, heads: Tensor, C: int) -> Tensor:
        B, _, N, _ = heads.shape
        x = heads.transpose(1, 2).reshape(B, N, C)
        x = x.reshape(B, N, C).reshape(B, N, C)
        return x.reshape(B, N, C).reshape(B, N, C)


def test_remedies_that_fail_in_the_module_are_not_tried_on_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def analysed() -> tuple[str, int]:
        model, runs = Transformer(Repeated), []
        model.register_forward_pre_hook(lambda *_: runs.append(1))
        plan = prunelab.analyze(model, TOKENS).plan({"first.qkv": [1, 3], "embed": list(range(2, 11))})
        return plan.to_json(), len(runs)

    plan, runs = analysed()
    monkeypatch.setattr("prunelab.structure.proving.pruned_run.PrunedRun.place", lambda run, module: None)
    same_plan, more_runs = analysed()
    assert plan == same_plan and "rewritten" in plan
    assert runs <= more_runs - 10


def test_the_plan_names_the_widths_and_holds_no_code() -> None:
    model, plan, _ = pruned({"first.qkv": [1, 3]})
    widths = [
        "self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads)",
        "heads.transpose(1, 2).reshape(B, N, C)",
    ]
    assert {path: [width.text for width in found] for path, found in plan.rewritten.items()} == {
        "first": widths,
        "second": widths,
    }
    assert [width.argument for width in plan.rewritten["first"]] == [4, 2]
    assert prunelab.PruningPlan.from_json(plan.to_json()) == plan
    assert not prunelab.analyze(model, TOKENS).plan({}).rewritten


def test_the_full_network_is_left_as_it_was() -> None:
    model, _, small = pruned()
    assert type(model.first) is Attention
    assert type(small.first) is not Attention and isinstance(small.first, Attention)
    assert repr(small.first).startswith("Attention(")


def test_the_new_source_can_be_read() -> None:
    _, _, small = pruned()
    assert "reshape(B, N, 3, self.num_heads, -1)" in inspect.getsource(type(small.first).forward)
    assert "reshape(B, N, -1)" in inspect.getsource(type(small.first).joined)
    assert inspect.signature(type(small.first).forward).parameters["shift"].default == 0.0


def test_copies_pickles_and_candidates_compute_the_same() -> None:
    model, plan, small = pruned()
    expected = small(TOKENS)
    for twin in (copy.deepcopy(small), pickle.loads(pickle.dumps(small)), candidate(model, plan)):
        assert twin is not small
        assert type(twin.first) is type(small.first)
        torch.testing.assert_close(twin(TOKENS), expected, rtol=0, atol=0)


def test_a_saved_network_can_be_loaded(tmp_path: Path) -> None:
    _, _, small = pruned()
    prunelab.save(small, tmp_path / "small")
    loaded = prunelab.load(tmp_path / "small", model=Transformer())
    torch.testing.assert_close(loaded(TOKENS), small(TOKENS), rtol=0, atol=0)


def test_torchscript_and_export_see_the_new_source() -> None:
    _, _, small = pruned()
    scripted = torch.jit.script(small)
    torch.testing.assert_close(scripted(TOKENS), small(TOKENS))
    exported = torch.export.export(small, (TOKENS,)).module()
    torch.testing.assert_close(exported(TOKENS), small(TOKENS))


def test_two_rounds_are_their_composition() -> None:
    model, first, small = pruned({"first.qkv": [0, 1, 3]})
    second = prunelab.analyze(small, TOKENS).plan(
        {"first.qkv": [0, 2], "second.qkv": [1, 2], "embed": [0, 4, 5]}
    )
    twice = prunelab.apply(small, second)
    at_once = prunelab.apply(copy.deepcopy(model), first.compose(second))
    assert first.compose(second).kept["first.qkv"] == (0, 3)
    torch.testing.assert_close(twice(TOKENS), at_once(TOKENS), rtol=0, atol=0)
    assert type(twice.first) is type(at_once.first)


def test_the_widths_of_a_dropped_block_are_removed(prune: Callable[..., Any]) -> None:
    class Block(nn.Module):
        def __init__(self, width: int, num_heads: int) -> None:
            super().__init__()
            self.attention = Attention(width, num_heads)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.attention(x)

    class Blocks(Transformer):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.second(self.first(self.embed(x))).mean(1))

    kept = {"first.attention.qkv": [0, 1], "second.attention.qkv": [1, 2, 3]}
    pruning = prune(Blocks(Block), TOKENS, kept=kept, dropped=["first"])
    assert list(pruning.plan.rewritten) == ["second.attention"]
    assert pruning.error < 1e-9
    first = prunelab.analyze(pruning.original, TOKENS).plan(kept)
    small = prunelab.apply(copy.deepcopy(pruning.original), first)
    both = first.compose(prunelab.analyze(small, TOKENS).plan({}, ["first"]))
    assert list(first.rewritten) == ["first.attention", "second.attention"]
    assert list(both.rewritten) == list(both.attributes) == ["second.attention"]


def test_another_version_of_the_source_is_an_error_before_anything_changes() -> None:
    class Newer(Attention):
        def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
            B, N, C = x.shape
            q, k, v = self.qkv(x).view(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
            x = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1) @ v
            return self.proj(x.transpose(1, 2).reshape(B, N, C)) + shift

    _, plan, _ = pruned()
    other = Transformer(Newer)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(
        UserError, match=r"another version of its library.*self.qkv\(x\).reshape.*Newer.forward"
    ):
        prunelab.apply(other, plan)
    assert type(other.first) is Newer
    for name, value in other.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def without_source(kind: type[nn.Module]) -> type[nn.Module]:
    """The same class, made from text that no file holds (``exec``, ``python -c``)."""
    made = dict(globals())
    exec(inspect.getsource(kind), made)
    return made[kind.__name__]


def test_without_source_the_reason_names_it() -> None:
    graph = prunelab.analyze(Transformer(without_source(Attention)), TOKENS)
    reasons = [group.frozen for group in graph.frozen if "qkv" in group.name]
    assert reasons
    assert all(
        "constant size" in reason and "source of Attention" in reason and "not available" in reason
        for reason in reasons
    )


def test_a_class_made_in_a_namespace_without_a_name_is_analysed() -> None:
    """The functions of such a class have no ``__module__``."""
    made = {name: value for name, value in globals().items() if name != "__name__"}
    exec(inspect.getsource(Attention), made)
    graph = prunelab.analyze(Transformer(made["Attention"]), TOKENS)
    assert any("source of Attention" in group.frozen for group in graph.frozen)


def test_a_plan_for_a_class_without_source_is_an_error_before_anything_changes() -> None:
    _, plan, _ = pruned()
    model = Transformer(without_source(Attention))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=r"source of Attention.*not available.*\.py file") as caught:
        prunelab.apply(model, plan)
    assert "another network" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_source_that_needs_its_class_is_not_rewritten(exact: Callable[..., Any]) -> None:
    """``super()`` cannot be compiled outside its class: the heads are frozen, with the reason."""

    class Shifted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    class Derived(Shifted):
        def __init__(self, width: int, num_heads: int) -> None:
            super().__init__()
            self.num_heads = num_heads
            self.value, self.proj = nn.Linear(width, width), nn.Linear(width, width)

        def forward(self, x: Tensor) -> Tensor:
            B, N, C = x.shape
            v = self.value(super().forward(x)).reshape(B, N, self.num_heads, -1).transpose(1, 2)
            v = v.softmax(dim=2)
            return self.proj(v.transpose(1, 2).reshape(B, N, C))

    pruning = exact(Transformer(Derived), TOKENS)
    assert not pruning.plan.rewritten
    assert all(reason.startswith("reshape has a constant size") for reason in pruning.frozen.values())
    assert pruning.frozen


@pytest.mark.parametrize(
    "damage", [[["forward", 0, 4, 5, 7]], [["forward", 0, 4, 5]], [["forward", -1, 4, 5, "x"]]]
)
def test_a_damaged_entry_is_an_error(damage: list[Any]) -> None:
    _, plan, _ = pruned()
    text = plan.to_json()
    start = text.index('"rewritten":')
    broken = (
        text[:start] + f'"rewritten":{{"first":{json.dumps(damage)}}}' + text[text.index("},", start) + 1 :]
    )
    with pytest.raises(UserError, match="not a valid pruning plan"):
        prunelab.PruningPlan.from_json(broken)


def attend(x: Tensor, packed: nn.Linear, last: nn.Linear, heads: int) -> Tensor:
    """Attention as a function of its file, as in torchvision's Swin."""
    images, tokens, width = x.shape
    parts = packed(x).reshape(images, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    scores = (parts[0] @ parts[1].transpose(-2, -1) / 2).softmax(-1)
    return last((scores @ parts[2]).transpose(1, 2).reshape(images, tokens, width))


class ByFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads, self.packed, self.last = 4, nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return attend(x, self.packed, self.last, self.heads)


def test_a_function_that_the_forward_pass_calls(exact: Callable[..., Any]) -> None:
    model = nn.Sequential(nn.Linear(5, 16), ByFunction(), nn.Linear(16, 3))
    pruning = exact(model, torch.randn(2, 6, 5))
    sizes = {group.name: group.size for group in pruning.graph.groups}
    assert sizes == {"0": 16, "1.packed": 4, "1.last": 16}
    assert {width.method for width in pruning.plan.rewritten["1"]} == {"attend()"}
    changed = inspect.getclosurevars(type(pruning.model[1]).forward).nonlocals["attend"]
    assert "reshape(images, tokens, -1)" in inspect.getsource(changed)
    assert "reshape(images, tokens, -1)" not in inspect.getsource(attend)  # other modules call this one
    again = pickle.loads(pickle.dumps(pruning.model))
    x = torch.randn(2, 6, 5)
    assert torch.equal(again(x), pruning.model(x))


class Reduced(nn.Module):
    """Keys and values of fewer tokens: one call has the number of tokens as -1 and computes the width of the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.scale = 4, 0.5
        self.queries, self.pairs, self.last = nn.Linear(16, 16), nn.Linear(16, 32), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        q = self.queries(x).reshape(B, N, self.heads, C // self.heads).permute(0, 2, 1, 3)
        pairs = self.pairs(x[:, ::2]).reshape(B, -1, 2, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q @ pairs[0].transpose(-2, -1) * self.scale).softmax(-1)
        return self.last((scores @ pairs[1]).transpose(1, 2).reshape(B, N, C))


def test_a_width_behind_a_computed_size(exact: Callable[..., Any]) -> None:
    model = nn.Sequential(nn.Linear(5, 16), Reduced(), nn.Linear(16, 3))
    pruning = exact(model, torch.randn(2, 6, 5))
    sizes = {group.name: group.size for group in pruning.graph.groups}
    assert sizes == {"0": 16, "1.queries": 4, "1.last": 16}
    text = inspect.getsource(type(pruning.model[1]).forward)
    assert "reshape(B, prunelab_source.shape[1], 2, self.heads, -1)" in text
    assert pruning.model(torch.randn(1, 8, 5)).shape == (1, 8, 3)
