"""Several processes train to the weights of one process, with all layers that depend on the batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prunelab.data.order import Shard
from prunelab.training import whole_batch, whole_batch_norm

SCRIPT = Path(__file__).with_name("two_ranks_fit.py")


def trained(folder: Path, processes: int) -> dict[str, Tensor]:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(SCRIPT), str(folder), str(processes)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / f"{processes}.pt")


@pytest.mark.ddp
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """63 steps in float64, with batch normalisation (also timm's, with an activation), dropout and stochastic depth."""
    alone, together = trained(tmp_path, 1), trained(tmp_path, 2)
    for name, expected in alone.items():
        torch.testing.assert_close(together[name], expected, rtol=1e-9, atol=1e-9)
    assert float(alone["norm.num_batches_tracked"]) == 63


class TwoShares:
    """Takes the place of ``all_reduce`` of two processes that run one after the other in this process.

    In each round every share adds its part; the sums are complete in the next round.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rank, self.call = 0, 0
        self._known: list[list[Tensor]] = []
        monkeypatch.setattr(whole_batch_norm.Shard, "of_this_process", lambda: Shard(self.rank, 2))
        monkeypatch.setattr(whole_batch_norm.dist, "all_reduce", self._all_reduce)

    def round(self, work: list[object]) -> list[object]:
        found, self._now = [], [[], []]  # type: ignore[var-annotated]
        for self.rank, each in enumerate(work):
            self.call = 0
            found.append(each())  # type: ignore[operator]
        self._known = self._now
        return found

    def _all_reduce(self, tensor: Tensor) -> None:
        self._now[self.rank].append(tensor.clone())
        if self._known and self.call < len(self._known[0]):
            other = self._known[1 - self.rank][self.call]
            tensor.add_(other)
        self.call += 1


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4), (5, 3, 4, 2)])
@pytest.mark.parametrize("affine", [True, False])
def test_uneven_shares_have_the_statistics_and_gradients_of_the_whole(
    shape: tuple[int, ...], affine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    images = torch.randn(shape, dtype=torch.float64) * 2 + 3
    factors = torch.randn(shape, dtype=torch.float64)
    whole, shares = nn.BatchNorm1d(3, affine=affine).double(), (slice(0, 3), slice(3, 5))
    if affine:
        nn.init.uniform_(whole.weight, 0.5, 2.0)
    running = (whole.running_mean, whole.running_var)
    norms = [(whole.running_mean.clone(), whole.running_var.clone()) for _ in shares]  # type: ignore[union-attr]
    parameters = [
        None if p is None else p.detach().clone().requires_grad_() for p in (whole.weight, whole.bias)
    ]

    inputs = images.clone().requires_grad_()
    expected = functional.batch_norm(inputs, *running, whole.weight, whole.bias, True)
    (expected * factors).sum().backward()

    parts = [images[share].clone().requires_grad_() for share in shares]

    def step(place: int, statistics: list[tuple[Tensor, Tensor]]) -> Tensor:
        for each in (parts[place], *parameters):
            if each is not None and place == 0:
                each.grad = None
        parts[place].grad = None
        found = whole_batch_norm.batch_norm(parts[place], *statistics[place], *parameters, True)
        (found * factors[shares[place]]).sum().backward()
        return found.detach()

    joined = TwoShares(monkeypatch)
    for attempt in range(
        3
    ):  # the sums of the forward pass are complete in the second round, of the backward in the third
        statistics = [(mean.clone(), variance.clone()) for mean, variance in norms]
        found = joined.round([lambda: step(0, statistics), lambda: step(1, statistics)])  # noqa: B023
        assert attempt < 3
    torch.testing.assert_close(torch.cat(found), expected.detach())  # type: ignore[arg-type]
    torch.testing.assert_close(torch.cat([part.grad for part in parts]), inputs.grad)  # type: ignore[misc]
    for mean, variance in statistics:
        torch.testing.assert_close(mean, running[0])
        torch.testing.assert_close(variance, running[1])
    if affine:
        for parameter, reference in zip(parameters, (whole.weight, whole.bias), strict=True):
            torch.testing.assert_close(parameter.grad, reference.grad)  # type: ignore[union-attr]


ORDERS = {
    "contiguous": torch.ones(6, 5, 4, 3),
    "channels last": torch.ones(6, 5, 4, 3).contiguous(memory_format=torch.channels_last),
    "sequence first, as after attention": torch.ones(5, 6, 4).transpose(0, 1),
    "tokens of maps": torch.ones(6, 5, 4, 3).flatten(2).transpose(1, 2),
    "expanded": torch.ones(6, 1, 4).expand(6, 5, 4),
}


@pytest.mark.parametrize("name", ORDERS)
def test_dropout_of_two_shares_is_that_of_the_whole_in_every_memory_order(name: str) -> None:
    """torch draws the numbers in the order of the memory."""
    images = ORDERS[name]
    torch.manual_seed(0)
    expected = functional.dropout(images, 0.5)
    for rank in range(2):
        torch.manual_seed(0)
        with whole_batch.WholeBatchMode(Shard(rank, 2), 3, True):
            found = functional.dropout(images[rank::2], 0.5)
        assert torch.equal(found, expected[rank::2])


class _WithDraws(nn.Module):
    """A network that draws one kind of random numbers, for images (N, 6, 4)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=kind != "heads, sequence first")
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.5, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        match self.kind:
            case "attention":
                return functional.scaled_dot_product_attention(images, images, images, dropout_p=0.5)
            case "attention with a mask of each image":
                mask = images[:, :, :1] + images[:, None, :, 0] > -1
                mask = mask | torch.eye(6, dtype=torch.bool)
                return functional.scaled_dot_product_attention(images, images, images, mask, 0.5)
            case "heads":
                return self.attention(images, images, images)[0]
            case "heads without weights":
                return self.attention(images, images, images, need_weights=False)[0]
            case "heads with padding":
                padding = torch.zeros(images.shape[:2], dtype=torch.bool)
                padding[:, 4:] = images[:, 4:, 0] > 0
                return self.attention(images, images * 2, images, key_padding_mask=padding)[0]
            case "heads, sequence first":
                turned = images.transpose(0, 1)
                return self.attention(turned, turned, turned)[0].transpose(0, 1)
            case "encoder":
                return self.encoder(images)
            case "windows":
                return functional.dropout(images.reshape(-1, 2, 4), 0.5).reshape(images.shape)
            case "noise":
                return images + torch.randn(len(images), 6, 4) * torch.rand_like(images)
            case "noise in place":
                return images + torch.empty(len(images), 1, 4).uniform_(-1, 1)
            case _:
                raise AssertionError(self.kind)


KINDS = (
    "attention",
    "attention with a mask of each image",
    "heads",
    "heads without weights",
    "heads with padding",
    "heads, sequence first",
    "encoder",
    "windows",
    "noise",
    "noise in place",
)


@pytest.mark.parametrize("kind", KINDS)
def test_random_numbers_of_two_shares_are_those_of_the_whole(kind: str) -> None:
    """Outputs and summed gradients of two shares are those of the whole batch; afterwards the generators are equal."""
    torch.manual_seed(1)
    network, images = _WithDraws(kind), torch.randn(6, 6, 4, requires_grad=True)
    leaves = {"images": images, **dict(network.named_parameters())}

    def gradients() -> dict[str, Tensor]:
        return {name: leaf.grad.clone() for name, leaf in leaves.items() if leaf.grad is not None}

    torch.manual_seed(0)
    expected = network(images)
    expected.square().sum().backward()
    of_the_whole, state = gradients(), torch.get_rng_state()
    for leaf in leaves.values():
        leaf.grad = None
    for rank in range(2):
        torch.manual_seed(0)
        with whole_batch.WholeBatchMode(Shard(rank, 2), 3, True):
            found = network(images[rank::2])
        torch.testing.assert_close(found, expected[rank::2])
        found.square().sum().backward()
        assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(gradients(), of_the_whole)


def test_random_numbers_that_belong_to_no_image_stay_equal_on_all_processes() -> None:
    """A mask of weights, a shape that begins with another number, and draws from a generator of the network itself."""
    weights = nn.Parameter(torch.ones(6, 4))

    def draws() -> list[Tensor]:
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        return [
            functional.dropout(weights, 0.5),
            torch.rand_like(weights),
            torch.rand(4, 3),
            torch.rand(3),
            torch.rand(3, 2, generator=generator),
        ]

    expected = draws()
    for rank in range(2):
        with whole_batch.WholeBatchMode(Shard(rank, 2), 3, True):
            found = draws()
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)
