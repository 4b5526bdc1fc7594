import random

import numpy as np
import pytest
import torch
from torch import nn

from prunelab.methods.untouched import untouched


def test_nothing_is_left_behind_even_after_an_error(plain: nn.Module) -> None:
    plain.train()
    plain.norm2.eval()
    plain.conv1.weight.requires_grad_(False)
    plain.conv2.weight.grad = torch.ones_like(plain.conv2.weight)
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    flags = [module.training for module in plain.modules()]
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)

    with pytest.raises(RuntimeError, match="inside"), untouched(plain, torch.device("cpu"), seed=9):
        assert not any(module.training for module in plain.modules())
        assert not any(parameter.requires_grad for parameter in plain.parameters())
        plain.train()(torch.randn(4, 2, 5, 5))  # moves the running statistics
        random.random(), np.random.random(), torch.rand(1)  # noqa: NPY002
        raise RuntimeError("inside")

    assert [module.training for module in plain.modules()] == flags
    assert not plain.conv1.weight.requires_grad and plain.conv2.weight.requires_grad
    assert torch.equal(plain.conv2.weight.grad, torch.ones_like(plain.conv2.weight))
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())
    drawn = random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    assert drawn == (random.random(), np.random.random(), torch.rand(1).item())  # noqa: NPY002


def test_random_numbers_inside_follow_from_the_seed(plain: nn.Module) -> None:
    drawn = []
    for _ in range(2):
        with untouched(plain, torch.device("cpu"), seed=9):
            drawn.append(torch.rand(3).tolist())
        torch.rand(1)
    assert drawn[0] == drawn[1]
