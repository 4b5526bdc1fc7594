"""MetaPruning: generated weights, encodings and crops by hand, the evolution and its window, and known widths."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prunelab.errors import UserError
from prunelab.methods import Budget, Judge, MetaPruning, PruningContext
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.search.evolution import RATIOS, Evolution, Schedule, mutated
from prunelab.methods.search.pruning_net import GENERATOR, Generator, PruningNet, encodings
from prunelab.methods.search.widths import Candidate, WidthSpace
from prunelab.models import build
from prunelab.structure import analyze, apply

HALF = Budget(flops=0.5)


def batches(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(16, 2, 5, 5, generator=generator), torch.randint(3, (16,), generator=generator))
        for _ in range(count)
    ]


def context_of(network: nn.Module, method: MetaPruning | None = None, **more: Any) -> PruningContext:
    found = batches()
    return (method or MetaPruning(HALF)).context(network, found[0][0][:1], found, validation=found, **more)


def test_a_generated_weight_by_hand() -> None:
    """Hidden units relu(2 x 0.5 - 0.5) = 0.5 and relu(-1) = 0; W = scale (0.5 M_1 + b)."""
    generator = Generator(torch.Size([2, 1, 1, 1]), inputs=1, hidden=2)
    with torch.no_grad():
        generator.first.weight.copy_(torch.tensor([[2.0], [-2.0]]))
        generator.first.bias.copy_(torch.tensor([-0.5, 0.0]))
        generator.second.weight.copy_(torch.tensor([[4.0, 9.0], [6.0, 9.0]]))
        generator.second.bias.copy_(torch.tensor([1.0, -1.0]))
        generator.scale.fill_(10.0)
    assert generator(torch.tensor([0.5])).flatten().tolist() == pytest.approx([30.0, 20.0])


def test_the_weight_of_full_widths_has_the_usual_deviation() -> None:
    generator = Generator(torch.Size([64, 16, 3, 3]), inputs=3, hidden=8)
    assert float(generator(torch.ones(3)).std().detach()) == pytest.approx((2 / (16 * 9)) ** 0.5, rel=1e-3)


def test_encodings_of_a_chain_and_of_blocks(plain: nn.Module, residual: nn.Module) -> None:
    """Outside of blocks the channels that a convolution reads and makes; inside those of the block."""
    graph = analyze(plain, torch.zeros(1, 2, 5, 5))
    assert encodings(plain, graph, ["conv1", "conv2"]) == {
        "conv1.weight": ("conv1",),
        "conv2.weight": ("conv1", "conv2"),
    }
    assert encodings(plain, graph, ["conv2"]) == {"conv2.weight": ("conv2",)}
    graph = analyze(residual, torch.zeros(1, 2, 5, 5))
    names = [group.name for group in graph.groups]
    stage = next(group.name for group in graph.groups if group.level == "stage")
    found = encodings(residual, graph, names)
    assert found["stem.weight"] == (stage,)
    assert (
        set(found["blocks.1.conv1.weight"])
        == set(found["blocks.1.conv2.weight"])
        == {stage, "blocks.1.conv1"}
    )


def test_the_encoding_of_a_bottleneck_is_that_of_the_paper() -> None:
    """Input, inner layers and output of the block; for the shortcut the same. (The paper ties the inner layers.)"""
    network = build("resnet50", num_classes=10).eval()
    graph = analyze(network, torch.zeros(1, 3, 32, 32))
    found = encodings(network, graph, [group.name for group in graph.groups])
    block = {"layer1", "layer2.0.conv1", "layer2.0.conv2", "layer2"}
    assert found["conv1.weight"] == ("conv1",)
    assert set(found["layer2.0.conv2.weight"]) == set(found["layer2.0.downsample.0.weight"]) == block


def test_a_network_uses_the_crop_of_the_generated_weights(plain: nn.Module) -> None:
    """By hand: the first channels of weights that are encoded by the widths, normalised without scale and shift."""
    torch.manual_seed(0)
    context = context_of(plain.train())
    net = PruningNet(context, hidden=4)
    row, (images, _) = np.array([3, 2]), batches()[0]
    weights = net.weights({"conv1": 3, "conv2": 2})
    assert torch.equal(weights["conv1.weight"], net.generators["conv1.weight"](torch.tensor([0.75])))
    assert torch.equal(weights["conv2.weight"], net.generators["conv2.weight"](torch.tensor([0.75, 2 / 6])))
    with net.at(row) as model:
        found = model(images)
    first, second = weights["conv1.weight"][:3], weights["conv2.weight"][:2, :3]
    hidden = functional.conv2d(images, first, padding=1)
    hidden = functional.relu(functional.batch_norm(hidden, None, None, training=True))
    hidden = functional.conv2d(hidden, second, padding=1)
    hidden = functional.relu(functional.batch_norm(hidden, None, None, training=True)).mean(dim=(2, 3))
    expected = functional.linear(hidden, plain.head.weight[:, :2], plain.head.bias)
    assert torch.allclose(found, expected, atol=1e-5)
    plan = context.graph.plan({"conv1": range(3), "conv2": range(2)})
    cropped = net.cropped(plan)
    assert torch.equal(cropped["conv1.weight"], first) and torch.equal(cropped["conv2.weight"], second)


def test_a_candidate_is_judged_with_the_weights_of_its_widths(plain: nn.Module) -> None:
    """Labels are the answers of the pruned network whose weights are replaced by hand."""
    torch.manual_seed(0)
    context = context_of(plain)
    net = PruningNet(context, hidden=4)
    net.detach()
    plan = context.graph.plan({"conv1": range(3), "conv2": range(2)})

    def logits() -> list[Tensor]:
        pruned = apply(copy.deepcopy(plain), plan).eval()
        for name, tensor in net.cropped(plan).items():
            pruned.get_parameter(name).data = tensor
        with torch.no_grad():
            return [pruned(images) for images, _ in batches()]

    plain.head.bias.data -= torch.cat(logits()).mean(dim=0)  # otherwise all images are of one class
    answered = [(images, found.argmax(dim=1)) for (images, _), found in zip(batches(), logits(), strict=True)]
    judged = MetaPruning(HALF).context(plain, answered[0][0][:1], answered, validation=answered)
    assert len(answered[0][1].unique()) > 1
    assert Judge(judged, adapt=False, weights=net.cropped)([plan]).tolist() == [1.0]
    assert Judge(judged, adapt=False)([plan])[0] < 1.0


def test_the_loss_of_a_step_is_that_of_a_network_of_random_widths(residual: nn.Module) -> None:
    method = MetaPruning(HALF, hidden=4, seed=5)
    context = context_of(residual.train(), method)
    method.begin(context)
    method.prepare(context)
    images, targets = batches()[0]
    loss = method.training_loss(context, (images, targets), residual)
    net = method._net
    assert net is not None
    genes = np.random.default_rng((5, 0)).integers(31, size=(1, net.supernet.space.dimensions))
    with net.at(net.supernet.space.widths(1 - RATIOS[genes])[0]):
        expected = functional.cross_entropy(residual(images), targets)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    loss.backward()
    for name, parameter in residual.named_parameters():
        assert (parameter.grad is not None) == (GENERATOR in name or name.startswith("head"))
    assert method.state_dict() == {"draws": 1}
    assert method.watch(context)["wide_loss"] == pytest.approx(float(loss.detach()))


def test_the_network_is_an_ordinary_one_afterwards(residual: nn.Module) -> None:
    """It has the weights of full widths, and the statistics with these weights."""
    before = {name: tensor.shape for name, tensor in residual.state_dict().items()}
    method = MetaPruning(HALF, hidden=4)
    context = context_of(residual.train(), method)
    method.begin(context)
    method.prepare(context)
    residual.blocks[1].norm1.eval()
    method.after_epoch(context)
    assert residual.training and not residual.blocks[1].norm1.training
    method.end()
    assert {name: tensor.shape for name, tensor in residual.state_dict().items()} == before
    assert all(parameter.requires_grad for parameter in residual.parameters())
    net = method._net
    assert net is not None
    for name, weight in net.weights({}).items():
        assert torch.equal(residual.get_parameter(name), weight)
    maps = functional.conv2d(torch.cat([images for images, _ in batches()]), residual.stem.weight, padding=1)
    assert torch.allclose(residual.norm.running_mean, maps.mean(dim=(0, 2, 3)), atol=1e-5)


def test_a_mutated_gene_by_hand() -> None:
    genes, changed = np.array([[0, 30, 12]]), np.array([[True, True, False]])
    assert mutated(genes, changed, np.array([[30, 1, 7]])).tolist() == [[30, 0, 12]]


def evolution(
    toy_graph: Any, sizes: Sequence[int] = (100, 100, 100, 100), keep: float = 0.4, **schedule: Any
) -> tuple[Evolution, WidthSpace]:
    """An evolution at its start, over a chain of layers of these widths."""
    graph, budget = toy_graph(sizes), Budget(flops=keep)
    net: Any = SimpleNamespace()
    search = Evolution(budget, net, Schedule(**schedule), seed=1)
    context = PruningContext(nn.Module(), graph, budget)
    scores = Scores({group.name: -np.arange(group.size, dtype=np.float64) for group in graph.groups})
    space = WidthSpace.of(context, scores)
    search.start(context, space)
    return search, space


def test_a_generation_is_new_inside_the_window_and_made_from_the_best(toy_graph: Any) -> None:
    search, space = evolution(toy_graph, population=12, parents=3, mutants=4, crossovers=3)
    seen: list[Candidate] = []
    for generation in range(4):
        asked = list(search.ask())
        assert len(set(asked)) == 12 and not set(asked) & set(seen)
        assert all(0.95 * space.target <= space.cost(each) <= space.target for each in asked)
        rows = np.array(search._asked)
        assert [tuple(row) for row in space.widths(1 - RATIOS[rows]).tolist()] == [e.widths for e in asked]
        if generation:
            best = sorted(seen, key=score_of, reverse=True)[:3]
            parents = space.widths(1 - RATIOS[np.stack(search._best())])
            assert [tuple(row) for row in parents.tolist()] == [each.widths for each in best]
        seen += asked
        for each in asked:
            search.tell(each, score_of(each))


def test_mutants_and_crossovers_by_hand(toy_graph: Any) -> None:
    """Parents of genes 3 and 15: a crossover has both, and nothing else; a mutant of one has few other genes."""
    search, _ = evolution(toy_graph, sizes=[100] * 20, tolerance=0.99, mutants=25, crossovers=25)
    parents = np.stack([np.full(20, 3), np.full(20, 15)])
    crossed: dict[Candidate, Any] = {}
    search._cross(parents, crossed)
    rows = np.stack(list(crossed.values()))
    assert len(rows) == 25
    assert (np.isin(rows, [3, 15])).all() and (rows == 3).any(axis=1).all() and (rows == 15).any(axis=1).all()
    changed: dict[Candidate, Any] = {}
    search._mutate(parents, changed)
    rows = np.stack(list(changed.values()))
    assert len(rows) == 25
    others = np.minimum((rows != 3).sum(axis=1), (rows != 15).sum(axis=1))
    assert others.max() < 10 and 1 < others.mean() < 3.5  # 20 genes x 0.1
    first: dict[Candidate, Any] = {}
    search._draw(first)
    rows = np.stack(list(first.values()))
    assert (rows >= 12).all() and (rows < 24).all() and len(np.unique(rows)) == 12


def score_of(candidate: Candidate) -> float:
    """Different for different widths."""
    return float(np.dot(candidate.widths, 0.1 ** np.arange(len(candidate.widths))))


@pytest.mark.parametrize("keep", [0.05, 0.8])
def test_a_budget_that_random_genes_miss_is_met_by_moved_ones(toy_graph: Any, keep: float) -> None:
    search, space = evolution(toy_graph, keep=keep, population=5, mutants=2, crossovers=2)
    asked = search.ask()
    assert len(asked) == 5
    assert all(0.8 * space.target < space.cost(each) <= space.target for each in asked)


def test_a_moved_network_cannot_be_wider(toy_graph: Any) -> None:
    search, space = evolution(toy_graph)
    genes = search._moved(np.array([12, 15, 20, 23]))
    assert space.costs(space.widths(1 - RATIOS[genes[None]]))[0] <= space.target
    wider = np.minimum(genes + np.eye(4, dtype=np.int64), 30)
    wider = wider[(wider != genes).any(axis=1)]
    assert len(wider) and (space.costs(space.widths(1 - RATIOS[wider])) > space.target).all()


def test_the_evolution_ends_after_its_generations_or_when_nothing_is_new(toy_graph: Any) -> None:
    search, _ = evolution(toy_graph, generations=2)
    for _ in range(2):
        for each in search.ask():
            search.tell(each, 0.0)
    assert search.ask() == []
    tiny, _ = evolution(toy_graph, sizes=(2,), keep=0.5)  # of widths 1 and 2 only one meets the budget
    (only,) = tiny.ask()
    tiny.tell(only, 0.0)
    assert tiny.ask() == []


class Killed(Exception):
    """Stands for a killed process."""


@pytest.mark.slow
def test_a_killed_evolution_ends_like_an_unbroken_one(
    residual: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = {"population": 5, "generations": 2, "parents": 2, "mutants": 2, "crossovers": 1}
    method = MetaPruning(HALF, hidden=4, save_every=1, **schedule)
    context = context_of(residual.train(), method)
    method.begin(context)
    method.prepare(context)
    method.end()
    judged: list[Any] = []
    limit: list[int] = []
    accuracy = Judge._accuracy

    def counted(self: Judge, plan: Any) -> float:
        if limit and len(judged) >= limit[0]:
            raise Killed
        judged.append(plan.digest())
        return accuracy(self, plan)

    monkeypatch.setattr(Judge, "_accuracy", counted)

    def decide(folder: str, **more: Any) -> Any:
        return method.decide(context_of(residual, method, folder=tmp_path / folder, **more))

    expected = decide("whole")
    whole, judged[:] = list(judged), []
    assert len(set(whole)) == len(whole) == 10
    for stop in (1, len(whole) // 2, len(whole) - 1):
        limit[:], judged[:] = [stop], []
        with pytest.raises(Killed):
            decide(f"killed_{stop}")
        limit.clear()
        assert decide(f"killed_{stop}") == expected
        assert judged == whole
    judged.clear()  # another budget in the same folder has an evolution of its own
    less = decide("whole", budget=Budget(flops=0.4))
    assert sum(map(len, less.kept.values())) < sum(map(len, expected.kept.values()))
    assert len(judged) == 10


def test_a_method_that_has_not_learned_decides_nothing(residual: nn.Module) -> None:
    with pytest.raises(UserError, match="needs a learning fit"):
        MetaPruning(HALF).decide(context_of(residual))


def test_a_network_without_prunable_convolutions_is_an_error() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    method = MetaPruning(HALF)
    images = [(torch.randn(4, 4), torch.randint(3, (4,)))]
    context = method.context(network, images[0][0][:1], images, validation=images)
    with pytest.raises(UserError, match="no convolution"):
        method.prepare(context)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hidden": 0}, "hidden=0"),
        ({"generations": 0}, "generations=0"),
        ({"mutants": 30, "crossovers": 30}, "together at most population=50"),
        ({"mutation": 0.0}, "mutation"),
        ({"tolerance": 1.0}, "tolerance"),
        ({"levels": ["block"]}, "block"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        MetaPruning(HALF, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_superfluous_channels_are_removed_and_needed_ones_kept(
    known: Any, learned_widths: Any, seed: int
) -> None:
    """The network learns from scratch, so that only the number of channels is known, not which."""
    method = MetaPruning(Budget(flops=0.65), seed=seed, tolerance=0.3)
    widths = learned_widths(method, known(seed, lr=0.05), epochs=30)
    assert widths.get("0", 8) >= 7  # of 8
    assert widths["3"] <= 22  # of 32
