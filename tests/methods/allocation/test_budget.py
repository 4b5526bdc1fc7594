import pytest

from prunelab.errors import UserError
from prunelab.methods import Budget


def test_a_budget_is_one_resource_and_a_fraction() -> None:
    assert (Budget(flops=0.5).resource, Budget(flops=0.5).keep) == ("flops", 0.5)
    assert (Budget(params=1).resource, Budget(params=1).keep) == ("params", 1.0)
    assert str(Budget(params=0.25)) == "budget.params=0.25"


def test_an_empty_budget_is_an_error() -> None:
    with pytest.raises(UserError, match=r"empty.*budget\.flops=0\.5"):
        Budget()


def test_two_resources_are_errors_and_named() -> None:
    with pytest.raises(UserError, match=r"budget\.flops=0\.5 and budget\.params=0\.3 .*budget\.params=null"):
        Budget(flops=0.5, params=0.3)


@pytest.mark.parametrize("keep", [0, -0.5, 1.01, 50, float("nan"), True, "half"])
def test_a_fraction_outside_0_1_is_an_error(keep: object) -> None:
    with pytest.raises(UserError, match=rf"budget\.flops={keep} is not a fraction"):
        Budget(flops=keep)  # type: ignore[arg-type]


def test_latency_is_a_resource() -> None:
    assert (Budget(latency=0.5).resource, Budget(latency=0.5).keep) == ("latency", 0.5)
