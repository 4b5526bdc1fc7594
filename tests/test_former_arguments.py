"""Arguments under their former names."""

from __future__ import annotations

import pytest

from prunelab.methods import Allocation, Budget, EagleEye, ImportanceMethod, L1Norm


@pytest.mark.parametrize(
    "make", [lambda **more: ImportanceMethod(L1Norm(), Budget(flops=0.5), **more), EagleEye]
)
def test_methods_accept_them_with_a_warning(make: type) -> None:
    budget = {} if make is not EagleEye else {"budget": Budget(flops=0.5)}
    with pytest.warns(FutureWarning, match="whole is now called exclude"):
        method = make(whole=["conv1"], **budget)
    assert method.exclude == {"conv1"}
    with pytest.warns(FutureWarning, match="floor is now called min_keep"):
        assert make(floor=0.3, **budget).allocation.min_keep == 0.3


def test_an_allocation_accepts_them_with_a_warning() -> None:
    with pytest.warns(FutureWarning, match="floor is now called min_keep"):
        assert Allocation(floor=0.3) == Allocation(min_keep=0.3)  # type: ignore[call-arg]


def test_both_names_at_once_are_an_error() -> None:
    with pytest.raises(TypeError, match="floor is the former name of min_keep"):
        Allocation(floor=0.3, min_keep=0.2)  # type: ignore[call-arg]
