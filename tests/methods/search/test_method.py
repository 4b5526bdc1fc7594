"""SearchMethod: the loop around ask and tell, its memo, its state on disk, and training of candidates."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from prunelab.errors import UserError
from prunelab.methods import Budget, PruningContext
from prunelab.methods.search import Candidate, Judge, SearchMethod, WidthSpace
from prunelab.records.claim import Claim, ClaimLost, claimed
from prunelab.structure import PruningPlan


class Killed(Exception):
    """Stands for a killed process."""


class Walk(SearchMethod):
    """A random walk: each generation proposes two candidates near the best one, and repeats the first of them."""

    def __init__(self, generations: int = 4, die_after: int | None = None, **settings: Any) -> None:
        super().__init__(Budget(params=0.9), **settings)
        self.generations, self.die_after = generations, die_after
        self.judged: list[Candidate] = []

    def start(self, context: PruningContext, space: WidthSpace) -> None:
        self.space, self.generator = space, np.random.default_rng(context.seed)
        self.left, self.best, self.told = self.generations, (-1.0, None), []

    def ask(self) -> Sequence[Candidate]:
        if not self.left:
            return []
        self.left -= 1
        rows = self.space.widths(self.generator.random((2, self.space.dimensions)) * 0.6)
        first, second = (Candidate(tuple(row.tolist())) for row in rows)
        return [first, second, first]

    def tell(self, candidate: Candidate, score: float) -> None:
        self.told.append([list(candidate.widths), score])

    def state_dict(self) -> dict[str, Any]:
        return {"left": self.left, "told": self.told, "generator": self.generator.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.left, self.told = state["left"], state["told"]
        self.generator.bit_generator.state = state["generator"]

    def judge(self, context: PruningContext) -> Any:
        judge = Judge(context, self.workers)

        def counted(plans: Sequence[PruningPlan]) -> Any:
            for plan in plans:
                if self.die_after is not None and len(self.judged) == self.die_after:
                    raise Killed
                self.judged.append(tuple(len(kept) for kept in plan.kept.values()))
            return judge(plans)

        return counted


@pytest.fixture
def context(plain: nn.Module, batches: Any, tmp_path: Path) -> Any:
    """(search, folder) -> its context on a small network."""

    def make(search: SearchMethod, folder: str | None = None, **more: Any) -> PruningContext:
        found = None if folder is None else tmp_path / folder
        return search.context(plain, batches[0][0][:1], batches, validation=batches, folder=found, **more)

    return make


def test_equal_candidates_are_judged_once(context: Any) -> None:
    search = Walk()
    search.decide(context(search))
    assert 4 <= len(search.judged) == len(set(search.judged))
    assert len(search.told) == 12


@pytest.mark.parametrize("die_after", range(4))
def test_a_search_killed_at_any_evaluation_ends_like_an_unbroken_one(context: Any, die_after: int) -> None:
    whole = Walk(save_every=1)
    expected = whole.decide(context(whole))

    killed = Walk(die_after=die_after, save_every=1)
    with pytest.raises(Killed):
        killed.decide(context(killed, "run"))
    resumed = Walk(save_every=1)
    assert resumed.decide(context(resumed, "run")) == expected
    assert resumed.told == whole.told
    assert killed.judged + resumed.judged == whole.judged  # nothing is judged twice


def test_a_finished_search_is_not_repeated(context: Any) -> None:
    first, again = Walk(), Walk()
    plan = first.decide(context(first, "run"))
    assert again.decide(context(again, "run")) == plan
    assert again.judged == []


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.file,)


def bomb(state: bytes, ran: Path) -> bytes:
    content = io.BytesIO()
    torch.save({"history": [], "pending": [], "method": Bomb(ran)}, content)
    return hashlib.sha256(content.getvalue()).hexdigest().encode() + content.getvalue()


DAMAGES: dict[str, Callable[[bytes, Path], bytes]] = {
    "no state": lambda state, ran: b"no state",
    "empty": lambda state, ran: b"",
    "cut": lambda state, ran: state[: len(state) // 2],
    "a flipped bit": lambda state, ran: state[:-200] + bytes([state[-200] ^ 1]) + state[-199:],
    "a pickle of an attacker": bomb,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_named_and_the_search_starts_again(
    context: Any, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, again = Walk(), Walk()
    plan = first.decide(context(first, "run"))
    file = tmp_path / "run" / "search.pt"
    file.write_bytes(DAMAGES[damage](file.read_bytes(), tmp_path / "ran"))
    with caplog.at_level(logging.WARNING, "prunelab"):
        assert again.decide(context(again, "run")) == plan
    assert again.judged == first.judged
    assert f"The search state {file} is damaged" in caplog.text
    assert file.with_name("search.pt.damaged").is_file()
    assert not (tmp_path / "ran").exists()


def test_a_search_whose_folder_was_taken_over_writes_no_state(context: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with claimed(folder, "the run") as claim:
        outdated = Claim("the run", "an earlier token", claim.owner)
        search = Walk(save_every=1)
        with pytest.raises(ClaimLost, match="the run"):
            search.decide(context(search, "run", write=outdated.write))
        assert not (folder / "search.pt").exists()
        search = Walk(save_every=1)
        search.decide(context(search, "run", write=claim.write))
        assert (folder / "search.pt").is_file()


def test_threads_give_the_same_result(context: Any) -> None:
    one, two = Walk(), Walk(workers=2)
    assert one.decide(context(one)) == two.decide(context(two))


def test_blocks_are_part_of_a_candidate(residual: nn.Module, batches: Any) -> None:
    search = Walk()
    made = search.context(residual, batches[0][0][:1], batches, validation=batches)
    space = WidthSpace(made, {}, tuple(block.name for block in made.graph.blocks))
    full = space.uniform(1.0)
    shorter = Candidate(full.widths, (space.blocks[0],))
    plan = space.plan(shorter.widths, search.ranking(made), shorter.dropped)
    assert plan.dropped_blocks == shorter.dropped
    assert space.cost(shorter) == made.graph.cost.params(plan) < space.cost(full)


def test_a_candidate_can_be_trained(context: Any, plain: nn.Module) -> None:
    trained: list[tuple[int, str]] = []

    def train(network: nn.Module, epochs: int, training: Any, name: str) -> None:
        assert all(parameter.requires_grad for parameter in network.parameters())
        assert all(module.training for module in network.modules())
        trained.append((epochs, name))
        network.head.bias.data.fill_(0.0)
        network.head.bias.data[1] = 100.0  # always answers class 1

    search = Walk(generations=1)
    made = context(search, train_candidate=train)
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    judge = Judge(made, prepare=lambda network, plan: made.train(network, 2, name="one"))
    search.start(made, WidthSpace.of(made, search.ranking(made)))
    plan = search.space.plan(search.ask()[0].widths, search.ranking(made))
    targets = torch.cat([classes for _, classes in made.held_out_images().batches(torch.device("cpu"))])
    assert judge([plan])[0] == pytest.approx(float((targets == 1).float().mean()))
    assert trained == [(2, "one")]
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())


def test_without_a_trainer_candidates_cannot_be_trained(context: Any, plain: nn.Module) -> None:
    search = Walk()
    with pytest.raises(UserError, match="train_candidate="):
        context(search).train(plain, 1)


@pytest.mark.parametrize("settings", [{"workers": 0}, {"save_every": 0}])
def test_settings_out_of_range(settings: dict[str, int]) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(UserError, match=f"{name}={value}"):
        Walk(**settings)
