"""Criteria that read activations and gradients, compared with a second, plain implementation and by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prunelab.errors import UserError
from prunelab.methods import APoZ, Budget, Criterion, Entropy, ImportanceMethod, PruningContext, Taylor
from prunelab.methods.importance.entropy import histogram_entropy
from prunelab.methods.importance.taylor import ActivationGradient, mflops_per_channel

MakeContext = Callable[..., PruningContext]


@contextmanager
def recorded_relus(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """The outputs of all functional ReLUs, in order."""
    outputs: list[Tensor] = []
    relu = functional.relu

    def recording(tensor: Tensor, inplace: bool = False) -> Tensor:
        outputs.append(relu(tensor))
        return outputs[-1]

    with monkeypatch.context() as patch:
        patch.setattr(functional, "relu", recording)
        yield outputs


def per_image(
    model: nn.Module, batches: Any, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
    """For each ReLU the activations (C, H, W) of every image, and their gradients, one image at a time."""
    activations: list[list[np.ndarray]] = []
    gradients: list[list[np.ndarray]] = []
    for images, targets in batches:
        for image, target in zip(images, targets, strict=True):
            with recorded_relus(monkeypatch) as outputs:
                loss = functional.cross_entropy(model(image[None]), target[None])
            found = torch.autograd.grad(loss, outputs)
            activations.append([output[0].detach().double().numpy() for output in outputs])
            gradients.append([gradient[0].double().numpy() for gradient in found])
    return activations, gradients


def stage_of(scores: dict[str, np.ndarray]) -> str:
    (stage,) = [name for name in scores if not name.endswith("conv1")]
    return stage


def test_apoz_equals_a_plain_count(
    residual: nn.Module, batches: Any, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = APoZ().score(make_context(APoZ(), residual)).channels
    activations, _ = per_image(residual, batches, monkeypatch)
    relus = [np.mean([(image[i] != 0).mean(axis=(1, 2)) for image in activations], axis=0) for i in range(7)]
    np.testing.assert_allclose(scores["blocks.1.conv1"], relus[3])
    np.testing.assert_allclose(
        scores[stage_of(scores)], np.mean([relus[0], relus[2], relus[4], relus[6]], axis=0)
    )


def test_apoz_is_not_defined_for_a_branch_before_its_relu() -> None:
    with pytest.raises(UserError, match="APoZ is not defined for level block"):
        ImportanceMethod(APoZ(), Budget(flops=0.5), levels=["filter", "block"])


def test_apoz_of_a_dead_channel_is_zero(plain: nn.Module, make_context: MakeContext) -> None:
    plain.norm1.bias.data[2], plain.norm1.weight.data[2] = -1.0, 0.0
    plain.norm1.bias.data[0], plain.norm1.weight.data[0] = 1.0, 0.0
    scores = APoZ().score(make_context(APoZ(), plain)).channels["conv1"]
    assert scores[2] == 0 and scores[0] == 1 and 0 < scores[1] < 1


def plain_entropy(values: np.ndarray, bins: int) -> float:
    if values.min() == values.max():
        return 0.0
    counts, _ = np.histogram(values, bins=bins, range=(values.min(), values.max()))
    fractions = counts[counts > 0] / len(values)
    return float(-(fractions * np.log(fractions)).sum())


def test_entropy_equals_a_plain_histogram(
    plain: nn.Module, batches: Any, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = Entropy(bins=7).score(make_context(Entropy(), plain)).channels
    activations, _ = per_image(plain, batches, monkeypatch)
    for i, name in enumerate(["conv1", "conv2"]):
        pooled = np.array([image[i].mean(axis=(1, 2)) for image in activations])
        expected = [plain_entropy(column, 7) for column in pooled.T]
        np.testing.assert_allclose(scores[name], expected, rtol=1e-6)


def test_entropy_by_hand() -> None:
    # constant; two of four in each half; one of four in each quarter; three to one
    values = torch.tensor([[5.0, 0, 0, 0], [5.0, 0.1, 1, 0], [5.0, 0.9, 2, 0], [5.0, 1, 3, 8]]).double()
    expected = [0, np.log(2), np.log(2), -0.75 * np.log(0.75) - 0.25 * np.log(0.25)]
    np.testing.assert_allclose(histogram_entropy(values, 2), expected, atol=1e-12)
    assert histogram_entropy(values, 4)[2] == pytest.approx(np.log(4))


def test_entropy_needs_bins() -> None:
    with pytest.raises(UserError, match="bins=1"):
        Entropy(bins=1)


@pytest.mark.parametrize("absolute", ["image", "elementwise", "batch"])
def test_taylor_equals_one_image_at_a_time(
    plain: nn.Module, batches: Any, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, absolute: Any
) -> None:
    criterion = Taylor(absolute=absolute)
    scores = criterion.score(make_context(criterion, plain)).channels
    activations, gradients = per_image(plain, batches, monkeypatch)
    for i, name in enumerate(["conv1", "conv2"]):
        changes = np.array([a[i] * g[i] for a, g in zip(activations, gradients, strict=True)])
        expected = {
            "image": np.abs(changes.mean(axis=(2, 3))).mean(axis=0),
            "elementwise": np.abs(changes).mean(axis=(0, 2, 3)),
            "batch": np.abs(changes.mean(axis=(0, 2, 3))),
        }[absolute]
        np.testing.assert_allclose(scores[name], expected / np.linalg.norm(expected), atol=1e-6)


def test_taylor_by_hand() -> None:
    activations = torch.tensor([[[1.0, 2.0]], [[3.0, 0.0]]])  # two images, one channel, two positions
    gradients = torch.tensor([[[1.0, -2.0]], [[1.0, 5.0]]])  # products: 1 -4 (mean -1.5) and 3 0 (mean 1.5)
    for absolute, expected in (("image", 1.5), ("elementwise", 2.0), ("batch", 0.0)):
        metric = ActivationGradient(1, absolute)  # type: ignore[arg-type]
        metric.update(activations[:1], gradients[:1])
        metric.update(activations[1:], gradients[1:])
        assert metric.compute().item() == expected


def test_taylor_sees_the_branch_of_a_block_before_the_sum_overwrites_it(
    residual: nn.Module, batches: Any, make_context: MakeContext
) -> None:
    residual.blocks[1].norm2.weight.data.zero_()
    residual.blocks[1].norm2.bias.data.zero_()  # f(x) = 0: the block is the identity
    scores = Taylor().score(make_context(Taylor(), residual, levels=["block"])).blocks
    assert scores["blocks.1"] == 0
    assert scores["blocks.0"] > 0 and scores["blocks.2"] > 0
    assert np.linalg.norm(list(scores.values())) == pytest.approx(1)


def test_taylor_of_an_unread_channel_is_zero(plain: nn.Module, make_context: MakeContext) -> None:
    plain.conv2.weight.data[:, 3] = 0
    scores = Taylor().score(make_context(Taylor(), plain)).channels["conv1"]
    assert scores[3] == 0 and np.all(scores[:3] > 0)


def test_taylor_can_charge_for_flops(plain: nn.Module, make_context: MakeContext) -> None:
    # conv1: 5x5 positions x (2x9 inputs + 9x6 outputs) x 2 operations; conv2: its 4x9 inputs, and the head
    context = make_context(Taylor(), plain)
    assert mflops_per_channel(context.graph) == {
        "conv1": pytest.approx(25 * 2 * (2 * 9 + 9 * 6) * 1e-6),
        "conv2": pytest.approx((25 * 2 * 4 * 9 + 2 * 3) * 1e-6),
    }
    free, charged = Taylor().score(context), Taylor(flops_weight=10.0).score(context)
    np.testing.assert_allclose(charged.channels["conv1"], free.channels["conv1"] - 10 * 25 * 2 * 72 * 1e-6)


def test_taylor_checks_its_settings() -> None:
    with pytest.raises(UserError, match="absolute: 'images' does not exist"):
        Taylor(absolute="images")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="flops_weight=-1"):
        Taylor(flops_weight=-1)


def test_the_last_smaller_batch_counts_by_its_images(
    plain: nn.Module, batches: Any, make_context: MakeContext
) -> None:
    images, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    for criterion in (APoZ(), Taylor(), Entropy(bins=5)):
        method = ImportanceMethod(criterion, Budget(flops=0.5))
        at_once = criterion.score(method.context(plain, images[:1], [(images, targets)]))
        in_batches = criterion.score(make_context(criterion, plain))
        for name, scores in in_batches.channels.items():
            np.testing.assert_allclose(scores, at_once.channels[name], rtol=1e-5)


@pytest.mark.parametrize("criterion", [APoZ(), Entropy(), Taylor()])
def test_one_pass_serves_all_layers_and_leaves_no_trace(
    residual: nn.Module, batches: Any, make_context: MakeContext, criterion: Criterion
) -> None:
    residual.train()
    for parameter in residual.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: tensor.clone() for name, tensor in residual.state_dict().items()}
    context = make_context(criterion, residual, levels=criterion.covers)
    passes: list[int] = []
    handle = residual.register_forward_hook(lambda module, inputs, outputs: passes.append(len(outputs)))
    torch.manual_seed(0)
    criterion.score(context)
    drawn = torch.rand(1)
    handle.remove()

    assert passes == [8, 8, 4]
    assert all(module.training for module in residual.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in residual.state_dict().items())
    assert all(parameter.requires_grad for parameter in residual.parameters())
    assert all(torch.equal(parameter.grad, torch.ones_like(parameter)) for parameter in residual.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in residual.modules())
    assert not any(images.requires_grad for images, _ in batches)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))


def test_missing_images_and_targets_are_errors(plain: nn.Module, batches: Any) -> None:
    method = ImportanceMethod(Taylor(), Budget(flops=0.5))
    example = batches[0][0][:1]
    with pytest.raises(UserError, match="there are none"):
        method.decide(method.context(plain, example))
    with pytest.raises(UserError, match="no images"):
        method.decide(method.context(plain, example, []))
    with pytest.raises(UserError, match="only images"):
        method.decide(method.context(plain, example, [example]))

    def unreduced(out: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(out, target, reduction="none")

    with pytest.raises(UserError, match="scalar"):
        method.decide(method.context(plain, example, batches, loss=unreduced))


def test_the_loss_can_be_replaced(plain: nn.Module, batches: Any) -> None:
    plans = []
    for loss in (functional.cross_entropy, lambda outputs, targets: outputs[:, 0].mean()):
        method = ImportanceMethod(Taylor(), Budget(flops=0.5))
        context = method.context(plain, batches[0][0][:1], batches, loss=loss)
        plans.append(Taylor().score(context).channels["conv1"])
    assert not np.allclose(*plans)


def test_a_loss_of_several_outputs(plain: nn.Module, batches: Any) -> None:
    """A network that returns a tuple, as detectors do, with the user's loss: the same scores."""

    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = plain

        def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            scores = self.inside(images)
            return scores, {"features": scores}

    method = ImportanceMethod(Taylor(), Budget(flops=0.5), outputs=0)
    example = batches[0][0][:1]

    def of_several(outputs: Any, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs[0], targets)

    found = Taylor().score(method.context(Several(), example, batches, loss=of_several))
    expected = Taylor().score(method.context(plain, example, batches))
    np.testing.assert_allclose(found.channels["inside.conv1"], expected.channels["conv1"])
    with pytest.raises(UserError, match="returns a tuple, not a tensor: give loss="):
        Taylor().score(method.context(Several(), example, batches))
