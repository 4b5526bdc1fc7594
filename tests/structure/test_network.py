"""analyze runs any network on any kind of input and leaves no side effects."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import prunelab
from prunelab.errors import UserError
from prunelab.models import build

IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8).sin()


def layers() -> nn.Sequential:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 3)]
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), *head)


def shared_block() -> nn.Module:
    block = nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1))
    tied = nn.Conv2d(8, 8, 3, padding=1)
    other = nn.Conv2d(8, 8, 3, padding=1)
    other.weight = tied.weight
    return nn.Sequential(nn.Conv2d(3, 8, 3), block, block, tied, other, nn.Conv2d(8, 2, 1))


def constants() -> nn.Module:
    """Some of its groups break on trial, and one attribute is set on trial."""

    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width = 8
            self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).view(len(x), self.width, -1)
            return self.second(x.view(len(x), self.width, 8, 8))[:, :4].mean((2, 3))

    return Shuffled()


def normalised_weights() -> nn.Module:
    weight_norm, spectral_norm = parametrizations.weight_norm, parametrizations.spectral_norm
    first, second = weight_norm(nn.Conv2d(3, 8, 3)), spectral_norm(nn.Conv2d(6, 5, 3))
    return nn.Sequential(first, nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), second, nn.Conv2d(5, 2, 1))


class Lightning(pl.LightningModule):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = layers()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def everything(model: nn.Module) -> dict[str, Any]:
    """Everything that an analysis could change."""
    tensors = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    modules = list(model.named_modules(remove_duplicate=False))
    return {
        "modules": [(path, id(module), type(module)) for path, module in modules],
        "tensors": [(name, id(tensor), tensor.data_ptr(), tensor._version) for name, tensor in tensors],
        "kinds": [(tensor.shape, tensor.dtype, tensor.requires_grad) for _, tensor in tensors],
        "gradients": [id(parameter.grad) for parameter in model.parameters()],
        "attributes": [{name: plain(value) for name, value in vars(module).items()} for _, module in modules],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for _, module in modules],
        "generators": (torch.get_rng_state().tolist(), random.getstate()),
        "modes": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_default_device()),
    }


def plain(value: Any) -> Any:
    """Numbers, flags and words by value, objects by identity."""
    return value if isinstance(value, int | float | str | tuple) else id(value)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "layers": layers,
    "in evaluation": lambda: layers().eval(),
    "partly in training": lambda: nn.Sequential(layers()[:3].eval(), layers()[3:].train()),
    "shared": shared_block,
    "constants": constants,
    "frozen": lambda: layers().requires_grad_(False),
    "lightning": Lightning,
    "resnet": lambda: build("cifar_resnet20", 10),
    "attention": lambda: build("test_vit", 10, img_size=8, patch_size=4),
    "computed weights": normalised_weights,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_an_analysis_leaves_no_trace(name: str) -> None:
    model = NETWORKS[name]()
    model.train(model.training)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    before = everything(model)
    graph = prunelab.analyze(model, IMAGES)
    assert everything(model) == before
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert graph.groups
    clone = copy.deepcopy(model).eval()
    assert torch.equal(clone(IMAGES), model.eval()(IMAGES))


@pytest.mark.parametrize("name", ["layers", "resnet", "attention"])
def test_an_analysed_network_can_still_be_pickled_and_so_can_its_graph(name: str) -> None:
    model = NETWORKS[name]().eval()
    graph = prunelab.analyze(model, IMAGES)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(IMAGES), model(IMAGES))
    other = pickle.loads(pickle.dumps(graph))
    kept = {graph.groups[0].name: [0, 1]}
    assert other.plan(kept) == copy.deepcopy(graph).plan(kept) == graph.plan(kept)


def test_an_analysis_that_fails_leaves_no_trace_either() -> None:
    model = nn.Sequential(layers()[:3], nn.Flatten(), nn.Linear(7, 3)).train()
    before = everything(model)
    with pytest.raises(UserError):
        prunelab.analyze(model, IMAGES)
    assert everything(model) == before


def test_the_same_network_gives_the_same_structure(random_plan: Callable[..., Any]) -> None:
    """Training mode, gradients, the batch and the number of the run change nothing."""
    model = build("cifar_resnet20", 10)
    graphs = [
        prunelab.analyze(model.train(), torch.zeros(1, 3, 32, 32)),
        prunelab.analyze(model.eval(), torch.zeros(5, 3, 32, 32)),
        prunelab.analyze(copy.deepcopy(model).requires_grad_(False), torch.ones(2, 3, 32, 32)),
    ]
    with torch.no_grad():
        graphs.append(prunelab.analyze(model, torch.zeros(1, 3, 32, 32)))
    for graph in graphs[1:]:
        assert [(g.name, g.level, g.size) for g in graph.groups] == [
            (g.name, g.level, g.size) for g in graphs[0].groups
        ]
        assert [g.hook_points[0].hook_point for g in graph.groups] == [
            g.hook_points[0].hook_point for g in graphs[0].groups
        ]
        assert graph.blocks == graphs[0].blocks
        assert graph.cost.flops() == graphs[0].cost.flops()
        assert random_plan(graph, 7).digest() == random_plan(graphs[0], 7).digest()


def test_a_lightning_module_is_pruned_like_any_other(exact: Callable[..., Any]) -> None:
    pruning = exact(Lightning(), IMAGES)
    assert pruning.groups == {"net.0": ("filter", 8)}
    assert pruning.model.hparams.width == 8


def two_inputs(net: Any, image: Tensor, context: Tensor) -> Tensor:
    return net.last(torch.cat([F.relu(net.image(image)).mean((2, 3)), F.relu(net.context(context))], 1))


CONTEXT = torch.ones(2, 5)


@pytest.mark.parametrize(
    "inputs",
    [(IMAGES, CONTEXT), {"image": IMAGES, "context": CONTEXT}, {"context": CONTEXT, "image": IMAGES}],
    ids=["tuple", "dict", "dict in another order"],
)
def test_several_inputs(exact: Callable[..., Any], network: Any, inputs: Any) -> None:
    parts = {"image": nn.Conv2d(3, 8, 3), "context": nn.Linear(5, 6), "last": nn.Linear(14, 3)}
    pruning = exact(network(two_inputs, **parts), inputs)
    assert pruning.groups == {"image": ("filter", 8), "context": ("filter", 6)}


@pytest.mark.parametrize(
    "pack",
    [
        lambda one, two: (one, two),
        lambda one, two: [one, {"two": two}],
        lambda one, two: {"scores": one, "maps": [two], "nothing": None, "count": 3},
        lambda one, two: ((one,), ([two], "text")),
    ],
    ids=["tuple", "list", "dict", "nested"],
)
def test_several_outputs_in_any_container(
    exact: Callable[..., Any], network: Any, pack: Callable[..., Any]
) -> None:
    def forward(net: Any, x: Tensor) -> Any:
        x = F.relu(net.stem(x))
        return pack(net.scores(x.mean((2, 3))), net.maps(x))

    parts = {"stem": nn.Conv2d(3, 8, 3), "scores": nn.Linear(8, 4), "maps": nn.Conv2d(8, 5, 1)}
    pruning = exact(network(forward, **parts), IMAGES)
    assert pruning.groups == {"stem": ("filter", 8)}
    assert {group.name for group in pruning.graph.frozen} == {"scores", "maps"}


def test_returned_features_are_not_pruned(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        features = F.relu(net.second(F.relu(net.first(x))))
        return features, net.last(features)

    parts = {"first": nn.Conv2d(3, 6, 3), "second": nn.Conv2d(6, 8, 3), "last": nn.Conv2d(8, 2, 1)}
    pruning = exact(network(forward, **parts), IMAGES)
    assert pruning.groups == {"first": ("filter", 6)}


def test_a_network_that_depends_on_its_data_is_traced_on_its_device(network: Any) -> None:
    """``item`` has no result on the meta device."""

    def forward(net: Any, x: Tensor) -> Tensor:
        brightness = x.amax().item()
        return net.second(F.relu(net.first(x / brightness)))

    model = network(forward, first=nn.Conv2d(3, 8, 3), second=nn.Conv2d(8, 2, 3)).train()
    before = everything(model)
    graph = prunelab.analyze(model, IMAGES)
    assert everything(model) == before
    assert [group.name for group in graph.groups] == ["first"]
    plan = graph.plan({"first": [0, 3, 4]})
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    assert prunelab.check(model, pruned, plan, IMAGES) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_types(dtype: torch.dtype) -> None:
    graph = prunelab.analyze(layers().to(dtype), IMAGES.to(dtype))
    assert [group.name for group in graph.groups] == ["0"]


def test_a_network_without_parameters_has_no_structure() -> None:
    graph = prunelab.analyze(nn.ReLU(), IMAGES)
    assert (graph.groups, graph.frozen, graph.blocks, graph.cost.flops(), graph.cost.params()) == (
        (),
        (),
        (),
        0,
        0,
    )
    assert prunelab.apply(nn.ReLU(), graph.plan()) is not None


@pytest.mark.parametrize(
    ("model", "inputs", "words"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(7, 3)), IMAGES, "2x3x8x8"),
        (nn.Sequential(nn.Conv2d(3, 4, 9)), IMAGES, "image size"),
        (nn.Conv2d(1, 4, 3), IMAGES, "2x3x8x8"),
        (nn.Conv2d(3, 4, 3), [1, 2], "no tensor"),
        (nn.Conv2d(3, 4, 3), {"images": IMAGES}, "images"),
        (nn.Conv2d(3, 4, 3), IMAGES[:0], "image"),
        (nn.Sequential(nn.LazyConv2d(4, 3)), IMAGES, "lazy|Lazy|uninitialized"),
    ],
    ids=["layers that do not fit", "image too small", "channels", "no tensor", "keyword", "no image", "lazy"],
)
def test_a_network_that_cannot_run_is_an_error(model: nn.Module, inputs: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        prunelab.analyze(model, inputs)


def test_an_error_of_the_network_names_its_line(network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.conv(x) * (1 / len([]))

    with pytest.raises(UserError, match=r"ZeroDivisionError.*test_network\.py, line \d+"):
        prunelab.analyze(network(forward, conv=nn.Conv2d(3, 4, 3)), IMAGES)


def test_an_error_of_a_rule_is_not_blamed_on_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise KeyError("a fault of the rule")

    monkeypatch.setattr("prunelab.structure.tracing.trace.rule_for", lambda func: broken)
    with pytest.raises(KeyError, match="a fault of the rule"):
        prunelab.analyze(nn.Conv2d(3, 4, 3), IMAGES)
