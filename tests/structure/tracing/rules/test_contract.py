"""Convolutions and matrix products: the channels that they produce and read, and the resulting ties."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Attention
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d

import prunelab
from prunelab.errors import UserError

IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8).sin()


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)]


def conv(inputs: int, outputs: int, **arguments: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **arguments)


def test_a_chain_has_one_group_for_each_hidden_convolution(exact: Callable[..., Any]) -> None:
    pruning = exact(nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6), *head(6)), IMAGES)
    assert pruning.groups == {"0": ("filter", 8), "3": ("filter", 6)}
    assert pruning.slices("0") == {
        ("0.weight", 0, "producer", 1),
        ("0.bias", 0, "bias", 1),
        ("1.weight", 0, "scale", 1),
        ("1.bias", 0, "shift", 1),
        ("1.running_mean", 0, "statistic", 1),
        ("1.running_var", 0, "statistic", 1),
        ("3.weight", 1, "consumer", 1),
    }


def test_the_output_of_the_network_is_not_pruned(exact: Callable[..., Any]) -> None:
    pruning = exact(nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 5)), IMAGES)
    assert {group.name: (group.size, group.frozen) for group in pruning.graph.frozen} == {
        "2": (5, "output of the network")
    }


def test_a_single_layer_has_nothing_to_prune(exact: Callable[..., Any]) -> None:
    assert exact(nn.Conv2d(3, 4, 3), IMAGES).groups == {}


def test_hidden_layers_of_one_channel_are_not_pruned(exact: Callable[..., Any]) -> None:
    assert exact(nn.Sequential(conv(3, 1), nn.ReLU(), conv(1, 6), *head(6)), IMAGES).groups == {
        "2": ("filter", 6)
    }


def test_grey_images_are_no_channels(exact: Callable[..., Any]) -> None:
    network = nn.Sequential(conv(1, 8), nn.ReLU(), conv(8, 6), *head(6))
    assert exact(network, IMAGES[:, :1]).groups == {"0": ("filter", 8), "2": ("filter", 6)}


def test_depthwise_filters_go_with_their_channel(exact: Callable[..., Any]) -> None:
    network = nn.Sequential(
        conv(3, 8), conv(8, 8, groups=8), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 6, 1)
    )
    pruning = exact(nn.Sequential(network, *head(6)), IMAGES)
    assert pruning.groups == {"0.0": ("filter", 8), "0.4": ("filter", 6)}
    assert ("0.1.weight", 0, "depthwise", 1) in pruning.slices("0.0")
    depthwise = pruning.model.get_submodule("0.1")
    assert depthwise.groups == depthwise.in_channels == depthwise.out_channels == len(depthwise.weight)


def test_a_depthwise_multiplier_takes_two_filters_from_each_channel(exact: Callable[..., Any]) -> None:
    network = nn.Sequential(conv(3, 6), conv(6, 12, groups=6), nn.ReLU(), nn.Conv2d(12, 5, 1), *head(5))
    pruning = exact(network, IMAGES)
    assert pruning.groups == {"0": ("filter", 6), "3": ("filter", 5)}
    (slice_,) = (found for found in pruning.graph.group("0").slices if found.role == "depthwise")
    assert slice_.index.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]


def test_grouped_convolutions_lose_the_same_places_of_every_group(exact: Callable[..., Any]) -> None:
    pruning = exact(nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 12, groups=4), nn.ReLU(), *head(12)), IMAGES)
    assert pruning.groups == {"0": ("filter", 2), "2": ("filter", 3)}
    (producer,) = pruning.graph.group("0").producers
    assert producer.index.tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    grouped = pruning.model[2]
    assert grouped.groups == 4
    assert (grouped.in_channels, grouped.out_channels) == (4 * grouped.weight.shape[1], len(grouped.weight))


def test_one_dimensional_networks(exact: Callable[..., Any]) -> None:
    network = nn.Sequential(
        nn.Conv1d(3, 8, 3, padding=1),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(8, 6, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 6, 2),
    )
    pruning = exact(network, torch.linspace(-1, 1, 2 * 3 * 16).reshape(2, 3, 16))
    assert pruning.groups == {"0": ("filter", 8), "4": ("filter", 6)}
    assert ("7.weight", 1, "consumer", 6) in pruning.slices("4")


def test_three_dimensional_networks(exact: Callable[..., Any]) -> None:
    network = nn.Sequential(
        nn.Conv3d(2, 6, 3, padding=1),
        nn.BatchNorm3d(6),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Flatten(),
        nn.Linear(48, 3),
    )
    assert exact(network, torch.randn(2, 2, 4, 4, 4)).groups == {"0": ("filter", 6)}


def test_transposed_convolutions_make_channels_on_their_second_dimension(exact: Callable[..., Any]) -> None:
    up = nn.ConvTranspose2d(8, 6, 2, stride=2)
    pruning = exact(
        nn.Sequential(conv(3, 8), nn.ReLU(), up, nn.BatchNorm2d(6), nn.ReLU(), conv(6, 2)), IMAGES
    )
    assert pruning.groups == {"0": ("filter", 8), "2": ("filter", 6)}
    assert ("2.weight", 0, "consumer", 1) in pruning.slices("0")
    assert ("2.weight", 1, "producer", 1) in pruning.slices("2")
    assert (pruning.model[2].in_channels, pruning.model[2].out_channels) == tuple(
        pruning.model[2].weight.shape[:2]
    )


def test_transposed_grouped_and_depthwise_convolutions(exact: Callable[..., Any]) -> None:
    grouped = nn.ConvTranspose2d(8, 12, 2, stride=2, groups=2)
    depthwise = nn.ConvTranspose2d(12, 12, 2, stride=2, groups=12)
    pruning = exact(nn.Sequential(conv(3, 8), nn.ReLU(), grouped, depthwise, nn.ReLU(), conv(12, 2)), IMAGES)
    assert pruning.groups == {"0": ("filter", 4), "2": ("filter", 6)}
    assert pruning.model[3].groups == pruning.model[3].in_channels == pruning.model[2].out_channels


def test_a_layer_used_twice_is_tied_to_itself(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        return net.head(F.relu(net.shared(F.relu(net.shared(x)))))

    pruning = exact(
        network(forward, stem=conv(3, 8), shared=conv(8, 8), head=nn.Sequential(*head(8))), IMAGES
    )
    assert pruning.groups == {"stem": ("filter", 8)}
    assert {("shared.weight", 0, "producer", 1), ("shared.weight", 1, "consumer", 1)} <= pruning.slices(
        "stem"
    )


def test_a_module_registered_twice_is_cut_once(exact: Callable[..., Any]) -> None:
    shared = nn.Sequential(conv(8, 6), nn.ReLU(), conv(6, 8), nn.ReLU())
    pruning = exact(nn.Sequential(conv(3, 8), nn.ReLU(), shared, shared, *head(8)), IMAGES)
    assert pruning.groups == {"0": ("filter", 8), "2.0": ("filter", 6)}
    assert pruning.model[2] is pruning.model[3]


def test_weights_tied_between_two_layers_remain_tied(exact: Callable[..., Any]) -> None:
    first, second = conv(8, 8), conv(8, 8)
    second.weight = first.weight
    pruning = exact(
        nn.Sequential(conv(3, 8), nn.ReLU(), first, nn.ReLU(), second, nn.ReLU(), *head(8)), IMAGES
    )
    assert pruning.groups == {"0": ("filter", 8)}
    assert pruning.model[2].weight is pruning.model[4].weight
    assert pruning.model[4].in_channels == pruning.model[2].in_channels == pruning.model[2].weight.shape[1]


def test_parameters_used_without_a_module(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return F.relu(F.conv2d(x, net.kernel) * net.gain + net.offset).mean((2, 3)) @ net.columns

    parts = {"kernel": (8, 3, 3, 3), "gain": (1, 8, 1, 1), "offset": (8, 1, 1), "columns": (8, 4)}
    made = {name: nn.Parameter(torch.randn(shape)) for name, shape in parts.items()}
    pruning = exact(network(forward, **made), IMAGES)
    assert pruning.groups == {"kernel": ("filter", 8)}
    assert {parameter for parameter, *_ in pruning.slices("kernel")} == set(parts)
    assert ("columns", 0, "consumer", 1) in pruning.slices("kernel")


def test_einsum_contracts_a_parameter_like_a_layer(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return torch.einsum("nchw,oc->nohw", F.relu(net.conv(x)), net.mix)

    pruning = exact(network(forward, conv=conv(3, 8), mix=nn.Parameter(torch.randn(4, 8))), IMAGES)
    assert pruning.groups == {"conv": ("filter", 8)}
    assert ("mix", 1, "consumer", 1) in pruning.slices("conv")


def test_a_linear_layer_on_transposed_tokens_keeps_its_roles(exact: Callable[..., Any], network: Any) -> None:
    """Its input is not contiguous, so PyTorch runs a plain matrix product and adds the bias after."""

    def forward(net: Any, x: Tensor) -> Tensor:
        tokens = F.relu(net.conv(x)).flatten(2).transpose(1, 2)
        return net.last(F.relu(net.mixer(tokens)).mean(1))

    pruning = exact(network(forward, conv=conv(3, 8), mixer=nn.Linear(8, 6), last=nn.Linear(6, 3)), IMAGES)
    assert pruning.groups == {"conv": ("filter", 8), "mixer": ("filter", 6)}
    assert ("mixer.weight", 1, "consumer", 1) in pruning.slices("conv")
    assert {("mixer.weight", 0, "producer", 1), ("mixer.bias", 0, "bias", 1)} <= pruning.slices("mixer")


def tokens(conv: nn.Module, x: Tensor) -> Tensor:
    """(images, places, channels)."""
    return conv(x).flatten(2).transpose(1, 2)


def squared(net: Any, x: Tensor) -> Tensor:
    features = F.relu(net.stem(x)).flatten(2)
    return net.last((features.transpose(1, 2) @ features).mean(1))


def images(values: Tensor) -> Tensor:
    return values.transpose(1, 2).unflatten(2, (8, 8))


def non_local(net: Any, x: Tensor) -> Tensor:
    x = net.stem(x)
    weights = tokens(net.first, x) @ net.second(x).flatten(2)
    out = net.project(images((weights / weights.shape[-1]) @ tokens(net.value, x)))
    return net.last((x + out).mean((2, 3)))


def one_head(net: Any, x: Tensor) -> Tensor:
    x = net.stem(x)
    q, k, v = (tokens(layer, x).unsqueeze(1) for layer in (net.first, net.second, net.value))
    out = F.scaled_dot_product_attention(q, k, v, scale=0.4).squeeze(1)
    return net.last(net.project(images(out)).mean((2, 3)))


def linear_attention(net: Any, x: Tensor) -> Tensor:
    x = net.stem(x)
    q, k, v = (tokens(layer, x) for layer in (net.first, net.second, net.value))
    out = q.relu() @ (k.softmax(1).transpose(1, 2) @ v)
    return net.last(net.project(images(out)).mean((2, 3)))


@pytest.mark.parametrize("forward", [squared, non_local, one_head, linear_attention])
def test_queries_and_keys_lose_the_same_channels(
    exact: Callable[..., Any], network: Any, forward: Callable[..., Tensor]
) -> None:
    parts = {"first": conv(6, 4), "second": conv(6, 4), "value": conv(6, 5), "project": conv(5, 6)}
    layers = {"stem": conv(3, 6), **(parts if forward is not squared else {})}
    last = nn.Linear(64 if forward is squared else 6, 3)
    pruning = exact(network(forward, **layers, last=last), IMAGES)
    assert not set(pruning.frozen) - {"last"}
    assert all(group.exact for group in pruning.graph.groups)
    if forward is not squared:
        found = {tuple(found.parameter for found in group.producers) for group in pruning.graph.groups}
        assert ("first.weight", "second.weight") in found


@pytest.mark.parametrize(
    "scale",
    [
        lambda width: width**-0.5,
        lambda width: 1 / torch.sqrt(torch.tensor(width)),
        lambda width: 1 / torch.tensor(width).float().sqrt(),
    ],
)
def test_a_scale_that_follows_the_width_is_inexact(
    inexact: Callable[..., Any], network: Any, scale: Callable[[int], float | Tensor]
) -> None:
    """RAFT divides correlations by the root of the number of channels, as a tensor."""

    def forward(net: Any, x: Tensor) -> Tensor:
        features = net.conv(net.stem(x)).flatten(2)
        return net.last((features.transpose(1, 2) @ features * scale(features.shape[1])).mean(1))

    pruning = inexact(network(forward, stem=conv(3, 6), conv=conv(6, 4), last=nn.Linear(64, 3)), IMAGES)
    assert {group.name: group.exact for group in pruning.graph.groups} == {"stem": True, "conv": False}


def test_fused_attention_with_its_own_scale_is_inexact(inexact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        q, k, v = (tokens(layer, x).unsqueeze(1) for layer in (net.first, net.second, net.value))
        return net.last(F.scaled_dot_product_attention(q, k, v).mean((1, 2)))

    layers = {"first": conv(3, 4), "second": conv(3, 4), "value": conv(3, 5)}
    pruning = inexact(network(forward, **layers, last=nn.Linear(5, 3)), IMAGES)
    assert {group.name: group.exact for group in pruning.graph.groups} == {"first": False, "value": True}


class SelfAttention(nn.Module):
    """A common form of multi-head attention: the number of heads is an attribute of the module."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        images, tokens, _ = x.shape
        parts = self.qkv(x).reshape(images, tokens, 3, self.num_heads, self.head_dim)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query @ key.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1)
        return self.proj((scores @ value).transpose(1, 2).reshape(images, tokens, -1))


def attention_network(network: Any, attention: nn.Module) -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.last(net.attention(net.embed(x)).mean(1))

    return network(forward, embed=nn.Linear(7, 12), attention=attention, last=nn.Linear(12, 3))


def test_attention_heads_are_units(exact: Callable[..., Any], network: Any) -> None:
    tokens = torch.randn(2, 5, 7)
    for attention in (SelfAttention(12, 4), Attention(12, 4, qkv_bias=True)):
        pruning = exact(attention_network(network, attention), tokens)
        assert pruning.groups == {
            "embed": ("filter", 12),
            "attention.qkv": ("filter", 4),
            "attention.proj": ("filter", 12),
        }
        (consumer,) = pruning.graph.group("attention.qkv").having("consumer")
        assert consumer.parameter == "attention.proj.weight"
        assert consumer.index.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
        assert pruning.model.attention.num_heads == pruning.plan.widths["attention.qkv"][1] < 4
        assert pruning.model.attention.head_dim == 3


def test_attention_in_a_residual_stream(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.embed(x)
        return net.last((x + net.attention(x)).mean(1))

    parts = {"embed": nn.Linear(7, 12), "attention": SelfAttention(12, 4), "last": nn.Linear(12, 3)}
    pruning = exact(network(forward, **parts), torch.randn(2, 5, 7))
    assert sorted(pruning.groups.values()) == [("filter", 4), ("stage", 12)]


def test_embeddings_make_channels(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, words: Tensor) -> Tensor:
        return net.last(F.relu(net.hidden(net.words(words))).mean(1))

    parts = {"words": nn.Embedding(10, 8), "hidden": nn.Linear(8, 6), "last": nn.Linear(6, 3)}
    pruning = exact(network(forward, **parts), torch.arange(10).reshape(2, 5))
    assert pruning.groups == {"words": ("filter", 8), "hidden": ("filter", 6)}
    assert pruning.model.words.embedding_dim == pruning.model.words.weight.shape[1]


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(8, 6, 3),
        nn.ConvTranspose2d(8, 6, 3, groups=2),
        nn.Conv2d(8, 6, 3),
        nn.Conv2d(8, 6, 3, groups=2),
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [1, 4, 16])
def test_another_number_of_channels_is_an_error(layer: nn.Module, channels: int) -> None:
    """The meta device accepts any number of them in a transposed convolution."""
    model = nn.Sequential(layer, nn.ReLU(), nn.Conv2d(6, 3, 1))
    with pytest.raises(UserError, match=f"{channels} channels instead"):
        prunelab.analyze(model, torch.zeros(1, channels, 6, 6))
    assert prunelab.analyze(model, torch.zeros(1, 8, 6, 6)).groups


def test_a_generator_costs_what_its_own_input_costs(counted_flops: Callable[..., int]) -> None:
    generator = nn.Sequential(nn.ConvTranspose2d(10, 8, 4), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1))
    noise = torch.zeros(1, 10, 1, 1)
    assert prunelab.analyze(generator, noise).cost.flops() == counted_flops(generator, noise)
    with pytest.raises(UserError, match="3 channels instead"):
        prunelab.analyze(generator, torch.zeros(1, 3, 32, 32))


def test_a_bias_of_another_width_is_an_error(network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return F.conv2d(x, net.conv.weight, net.wrong)

    model = network(forward, conv=nn.Conv2d(3, 4, 3), wrong=nn.Parameter(torch.zeros(5)))
    with pytest.raises(UserError, match="cannot run"):
        prunelab.analyze(model, torch.zeros(1, 3, 8, 8))


class Attending(nn.Module):
    """As in ECA: a convolution along the channels makes a factor for each."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.along = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        factors: Tensor = self.along(maps.mean((2, 3)).unsqueeze(1)).squeeze(1)
        return maps * factors.sigmoid()[:, :, None, None]


def test_a_convolution_along_the_channels_is_inexact(inexact: Callable[..., Any]) -> None:
    pruning = inexact(nn.Sequential(conv(3, 8), nn.ReLU(), Attending(3), conv(8, 2)), IMAGES)
    assert pruning.inexact == {"0": "convolution moves along the channels"}


def test_a_kernel_of_one_place_along_the_channels_is_exact(exact: Callable[..., Any]) -> None:
    pruning = exact(nn.Sequential(conv(3, 8), nn.ReLU(), Attending(1), conv(8, 2)), IMAGES)
    assert pruning.groups == {"0": ("filter", 8)}


class Deformed(nn.Module):
    """Two offsets for each place of the kernel, and perhaps a factor."""

    def __init__(self, sets: int, bias: bool, masked: bool, groups: int = 1) -> None:
        super().__init__()
        self.stem, self.offset = conv(3, 8), conv(8, 18 * sets)
        self.mask = conv(8, 9 * sets) if masked else None
        self.layer = DeformConv2d(8, 6, 3, padding=1, bias=bias, groups=groups)
        self.head = conv(6, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images).relu()
        mask = None if self.mask is None else self.mask(maps).sigmoid()
        out: Tensor = self.head(self.layer(maps, self.offset(maps), mask).relu())
        return out


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ((1, True, True), {"stem": 8, "layer": 6}),
        ((1, False, False), {"stem": 8, "layer": 6}),
        ((2, True, True), {"stem": 4, "layer": 6}),
        ((1, True, False, 2), {"stem": 4, "layer": 3}),
    ],
    ids=["mask", "plain", "two_sets_of_offsets", "grouped"],
)
def test_deformable_convolutions(
    random_plan: Callable[..., Any],
    masked_by_hand: Callable[..., list[Tensor]],
    outputs: Callable[..., list[Tensor]],
    options: tuple[Any, ...],
    sizes: dict[str, int],
) -> None:
    network = Deformed(*options).eval()
    graph = prunelab.analyze(network, IMAGES)
    assert {group.name: group.size for group in graph.groups} == sizes
    layer = next(layer for layer in graph.cost.layers() if layer.module == "layer")
    assert (layer.operator, layer.kernel, layer.in_channels, layer.makes) == (
        "convolution",
        (3, 3),
        8,
        ("layer",),
    )
    plan = random_plan(graph)
    pruned = prunelab.apply(copy.deepcopy(network), plan)
    assert prunelab.check(network, pruned, plan, IMAGES) < 1e-9
    for one, other in zip(masked_by_hand(network, graph, plan, IMAGES), outputs(pruned, IMAGES), strict=True):
        torch.testing.assert_close(one, other)
    assert (
        pruned.layer.weight.shape[1] * pruned.layer.groups
        == pruned.layer.in_channels
        == pruned.stem.out_channels
    )


class PooledHeads(nn.Module):
    """As in MViT: keys and values of all heads are pooled as images."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.project = nn.Linear(16, 48), nn.Linear(16, 16)
        self.pool = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4)
        self.heads = 4

    def forward(self, tokens: Tensor) -> Tensor:
        images, places, _ = tokens.shape
        side = int(places**0.5)
        q, k, v = self.qkv(tokens).reshape(images, places, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        k, v = (self._pooled(maps.reshape(images * self.heads, side, side, -1)) for maps in (k, v))
        mixed = F.softmax(q @ k.transpose(-2, -1), -1) @ v
        return self.project(mixed.transpose(1, 2).reshape(images, places, -1))

    def _pooled(self, maps: Tensor) -> Tensor:
        maps = self.pool(maps.permute(0, 3, 1, 2))
        return maps.reshape(-1, self.heads, maps.shape[1], maps.shape[2] * maps.shape[3]).transpose(2, 3)


def test_heads_that_are_pooled_as_images(exact: Callable[..., Any]) -> None:
    network = nn.Sequential(nn.Linear(6, 16), PooledHeads(), nn.Linear(16, 4))
    pruning = exact(network, torch.linspace(-1, 1, 2 * 9 * 6).reshape(2, 9, 6).sin())
    assert {name: size for name, (_, size) in pruning.groups.items()} == {
        "0": 16,
        "1.qkv": 4,
        "1.project": 16,
    }


class VLAD(nn.Module):
    """NetVLAD: the differences between features and learned centres, summed by soft assignment to the centres."""

    def __init__(self, width: int, centres: int) -> None:
        super().__init__()
        self.assign = nn.Conv2d(width, centres, 1)
        self.centres = nn.Parameter(torch.randn(centres, width))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.assign(x).softmax(1).flatten(2)
        between = x.flatten(2)[:, None] - self.centres[None, :, :, None]
        return (weights[:, :, None] * between).sum(3).flatten(1)


def test_features_of_netvlad(prune: Callable[..., Any]) -> None:
    model = nn.Sequential(conv(3, 6), nn.ReLU(), VLAD(6, 4), nn.Linear(24, 3))
    pruning = prune(model, IMAGES)
    assert {group.name: (group.size, group.exact) for group in pruning.graph.groups} == {"0": (6, True)}
    assert pruning.model[2].centres.shape == (4, len(pruning.plan.kept["0"])) and pruning.error < 1e-9
    assert list(pruning.frozen) == ["2.assign"]
