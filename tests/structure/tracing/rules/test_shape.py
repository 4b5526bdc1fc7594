"""Views, concatenations, splits: the positions of channels, and constant sizes that freeze one group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8).sin()
Forward = Callable[[Any, Tensor], Tensor]


def conv(inputs: int, outputs: int, **arguments: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **arguments)


def test_flattening_gives_each_channel_its_places(exact: Callable[..., Any]) -> None:
    network = nn.Sequential(conv(3, 6), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(96, 5))
    pruning = exact(network, IMAGES)
    (consumer,) = pruning.graph.group("0").having("consumer")
    assert consumer.index.tolist() == [list(range(16 * k, 16 * k + 16)) for k in range(6)]


def test_flattening_channels_last_gives_each_channel_every_sixth_place(
    exact: Callable[..., Any], network: Any
) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.last(F.relu(net.conv(x)).permute(0, 2, 3, 1).flatten(1))

    pruning = exact(network(forward, conv=conv(3, 6), last=nn.Linear(6 * 64, 5)), IMAGES)
    (consumer,) = pruning.graph.group("conv").having("consumer")
    assert consumer.index.tolist() == [list(range(k, 384, 6)) for k in range(6)]


def test_dense_connections_concatenate_groups(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        first = F.relu(net.first(x))
        second = F.relu(net.second(first))
        third = F.relu(net.third(net.norm(torch.cat([first, second], 1))))
        return net.last(torch.cat([first, second, third], 1).mean((2, 3)))

    parts = {"first": conv(3, 8), "second": conv(8, 6), "norm": nn.BatchNorm2d(14), "third": conv(14, 7)}
    pruning = exact(network(forward, **parts, last=nn.Linear(21, 3)), IMAGES)
    assert pruning.groups == {"first": ("filter", 8), "second": ("filter", 6), "third": ("filter", 7)}
    (scale,) = pruning.graph.group("second").having("scale")
    assert scale.index[:, 0].tolist() == [8, 9, 10, 11, 12, 13]
    assert pruning.model.norm.num_features == pruning.model.third.in_channels


def test_a_u_net_reads_its_skip_in_two_places(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        skip = F.relu(net.down(x))
        low = F.relu(net.bottom(F.max_pool2d(skip, 2)))
        return net.out(F.relu(net.up(torch.cat([F.interpolate(low, scale_factor=2), skip], 1))))

    parts = {"down": conv(3, 6), "bottom": conv(6, 10), "up": conv(16, 6), "out": conv(6, 2)}
    pruning = exact(network(forward, **parts), IMAGES)
    assert pruning.groups == {"down": ("filter", 6), "bottom": ("filter", 10), "up": ("filter", 6)}
    consumers = {
        found.parameter: found.index[0, 0] for found in pruning.graph.group("down").having("consumer")
    }
    assert consumers == {"bottom.weight": 0, "up.weight": 10}


def test_a_tensor_concatenated_with_itself_is_read_twice(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.conv(x))
        return net.out(torch.cat([x, x], 1))

    pruning = exact(network(forward, conv=conv(3, 5), out=conv(10, 2)), IMAGES)
    assert ("out.weight", 1, "consumer", 2) in pruning.slices("conv")


def test_stacked_tensors_are_tied(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.out(torch.stack([net.first(x), net.second(x)]).amax(0))

    pruning = exact(network(forward, first=conv(3, 6), second=conv(3, 6), out=conv(6, 2)), IMAGES)
    assert pruning.groups == {"first": ("filter", 6)}
    assert len(pruning.graph.group("first").producers) == 2


def test_chunks_keep_equal_widths(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        values, gates = net.conv(x).chunk(2, 1)
        return net.out(values * torch.sigmoid(gates))

    pruning = exact(network(forward, conv=conv(3, 8), out=conv(4, 2)), IMAGES)
    assert pruning.groups == {"conv": ("filter", 4)}
    (weight,) = (found for found in pruning.graph.group("conv").slices if found.parameter == "conv.weight")
    assert weight.index.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_a_gated_linear_unit_keeps_equal_halves(exact: Callable[..., Any]) -> None:
    pruning = exact(nn.Sequential(conv(3, 8), nn.GLU(1), conv(4, 6), nn.ReLU(), conv(6, 2)), IMAGES)
    assert pruning.groups == {"0": ("filter", 4), "2": ("filter", 6)}
    assert pruning.slices("0") >= {("0.weight", 0, "producer", 2), ("2.weight", 1, "consumer", 1)}


def test_halves_that_follow_the_width(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.conv(x))
        half = x.shape[1] // 2
        return net.out(torch.cat([x[:, :half], net.other(x[:, half:])], 1))

    pruning = exact(network(forward, conv=conv(3, 8), other=conv(4, 5), out=conv(9, 2)), IMAGES)
    assert pruning.groups == {"conv": ("filter", 4), "other": ("filter", 5)}


def shuffle_by_hand(x: Tensor) -> Tensor:
    images, channels, height, width = x.shape
    return (
        x.view(images, 2, channels // 2, height, width)
        .transpose(1, 2)
        .reshape(images, channels, height, width)
    )


@pytest.mark.parametrize("shuffle", [shuffle_by_hand, nn.ChannelShuffle(2)], ids=["views", "module"])
def test_channel_shuffle_keeps_its_groups_equal(
    exact: Callable[..., Any], network: Any, shuffle: Callable[[Tensor], Tensor]
) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.out(F.relu(net.grouped(shuffle(F.relu(net.conv(x))))))

    pruning = exact(network(forward, conv=conv(3, 12), grouped=conv(12, 6, groups=2), out=conv(6, 2)), IMAGES)
    assert pruning.groups == {"conv": ("filter", 3), "grouped": ("filter", 3)}
    (weight,) = (found for found in pruning.graph.group("conv").slices if found.parameter == "conv.weight")
    # Shuffled: 0 6 1 7 2 8 | 3 9 4 10 5 11. Place i of both grouped halves, and of both shuffled rows, are one.
    assert weight.index.tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


def splits_by_constants(net: Any, x: Tensor) -> Tensor:
    first, second = net.conv(net.stem(x)).split([3, 5], 1)
    return net.out(F.relu(torch.cat([first, F.relu(second)], 1)))


def slices_at_constants(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.conv(F.relu(net.stem(x))))
    return net.out(torch.cat([x[:, :4], F.relu(x[:, 4:] - 1)], 1))


def writes_its_width_out(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.conv(F.relu(net.stem(x))))
    return net.out(x.view(-1, 8 * 8 * 8).view(-1, 8, 8, 8))


def shuffles_by_constants(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.conv(F.relu(net.stem(x))))
    return net.out(x.view(-1, 2, 4, 8, 8).transpose(1, 2).reshape(-1, 8, 8, 8))


@pytest.mark.parametrize(
    ("forward", "operator"),
    [
        (splits_by_constants, "split"),
        (slices_at_constants, "slice"),
        (writes_its_width_out, "view"),
        (shuffles_by_constants, "view"),
    ],
)
def test_constants_freeze_the_group_they_stand_for_and_no_other(
    exact: Callable[..., Any], network: Any, forward: Forward, operator: str
) -> None:
    pruning = exact(network(forward, stem=conv(3, 6), conv=conv(6, 8), out=conv(8, 2)), IMAGES)
    assert pruning.groups == {"stem": ("filter", 6)}
    assert {name.partition("#")[0] for name in pruning.frozen} == {"conv"}
    assert operator in pruning.frozen["conv"]


def test_channels_that_a_constant_slice_drops_can_go(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.out(F.relu(net.conv(F.relu(net.stem(x)))[:, :5]))

    pruning = exact(network(forward, stem=conv(3, 6), conv=conv(6, 8), out=conv(5, 2)), IMAGES)
    assert pruning.groups["stem"] == ("filter", 6)
    assert "slice" in pruning.frozen["conv"]
    (frozen,) = (group for group in pruning.graph.frozen if group.name == "conv")
    assert frozen.size == 5


@pytest.mark.parametrize(
    ("forward", "channels", "operator"),
    [
        (lambda net, x: net.out(F.relu(net.conv(net.stem(x)))[:, ::2]), 4, "slice"),
        (lambda net, x: net.out(F.relu(net.conv(net.stem(x)))[:, 0:1]), 1, "slice"),
        (lambda net, x: net.out(F.relu(net.conv(net.stem(x)))[:, 3][:, None]), 1, "select"),
    ],
    ids=["every second", "the first", "one"],
)
def test_channels_selected_by_position_are_kept(
    exact: Callable[..., Any], network: Any, forward: Forward, channels: int, operator: str
) -> None:
    pruning = exact(network(forward, stem=conv(3, 6), conv=conv(6, 8), out=conv(channels, 2)), IMAGES)
    assert pruning.groups["stem"] == ("filter", 6)
    assert operator in pruning.frozen["conv"]


def test_a_class_token_has_the_channels_it_is_concatenated_with(
    exact: Callable[..., Any], network: Any
) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        tokens = net.conv(x).flatten(2).transpose(1, 2)
        return net.last(torch.cat([net.token.expand(len(x), -1, -1), tokens], 1).mean(1))

    parts = {"conv": conv(3, 8), "token": nn.Parameter(torch.randn(1, 1, 8)), "last": nn.Linear(8, 3)}
    pruning = exact(network(forward, **parts), IMAGES)
    assert pruning.groups == {"conv": ("filter", 8)}
    assert "token" in {parameter for parameter, *_ in pruning.slices("conv")}


def test_windows_of_patches_repeat_their_channel(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        patches = F.unfold(F.relu(net.conv(x)), 3, padding=1).transpose(1, 2).contiguous()
        return net.last(net.hidden(patches).mean(1))

    pruning = exact(network(forward, conv=conv(3, 4), hidden=nn.Linear(36, 6), last=nn.Linear(6, 2)), IMAGES)
    (consumer,) = pruning.graph.group("conv").having("consumer")
    assert consumer.index.tolist() == [list(range(9 * k, 9 * k + 9)) for k in range(4)]


@pytest.mark.parametrize(
    "product",
    [lambda x, y: x.unsqueeze(2) @ y.unsqueeze(1), lambda x, y: x.unsqueeze(2) * y.unsqueeze(1)],
    ids=["bmm", "mul"],
)
def test_of_an_outer_product_the_wider_factor_can_be_pruned(
    exact: Callable[..., Any], network: Any, product: Callable[[Tensor, Tensor], Tensor]
) -> None:
    def forward(self: Any, images: Tensor) -> Tensor:
        one, other = (layer(images).relu().mean((2, 3)) for layer in (self.one, self.other))
        return self.head(product(one, other).flatten(1))

    made = network(forward, one=conv(3, 5), other=conv(3, 6), head=nn.Linear(30, 4))
    pruning = exact(made, IMAGES)
    assert pruning.groups == {"other": ("filter", 6)}
    assert set(pruning.frozen) == {"one"}


def test_of_a_product_with_itself_nothing_can_be_pruned(exact: Callable[..., Any], network: Any) -> None:
    def forward(self: Any, images: Tensor) -> Tensor:
        maps = self.stem(images).relu().mean((2, 3))
        return self.head((maps.unsqueeze(2) * maps.unsqueeze(1)).flatten(1))

    assert exact(network(forward, stem=conv(3, 5), head=nn.Linear(25, 4)), IMAGES).groups == {}


class Reversible(nn.Module):
    """A block of RevNet: two halves, each changed by the other, and inputs whose memory is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Sequential(conv(3, 5), nn.ReLU(), conv(5, 3)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        one, two = (half.contiguous() for half in x.chunk(2, 1))
        three = one + self.first(two)
        four = two + self.second(three)
        out = torch.cat([three, four], 1)
        for used in (one, two, three, four):
            used.data.set_()
        return out


def test_a_reversible_block_that_frees_its_inputs(exact: Callable[..., Any]) -> None:
    pruning = exact(nn.Sequential(conv(3, 6), Reversible(), Reversible(), conv(6, 2)), IMAGES)
    inner = {f"{number}.{half}.0": ("filter", 5) for number in (1, 2) for half in ("first", "second")}
    assert pruning.groups.items() >= inner.items()
    assert not pruning.frozen and len(pruning.groups) == 5  # both halves of the stream lose the same channels
