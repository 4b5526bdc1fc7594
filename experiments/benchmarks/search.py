"""The cost of searches, each beside a plain version of its official procedure.

    OMP_NUM_THREADS=1 python experiments/benchmarks/search.py [PART ...]

Parts: amc_episode, amc_evaluations, descent, generation, architecture_step; by default all. The two versions take turns
in one process; processor times are compared, and written to experiments/benchmarks/records/search_<part>.json. Networks
that only need costs have random weights and images; ``amc_evaluations`` and ``descent`` train a ResNet-20 on
scikit-learn's digits first.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from search_plain import (
    lazily,
    plain_amc_episode,
    plain_eagleeye,
    plain_metapruning,
    shared_fraction,
)
from timing import machine
from torch import Tensor, nn
from torch.nn import functional

from prunelab.data import Digits
from prunelab.methods import AMC, DMCP, TAS, AutoSlim, Budget, EagleEye, MetaPruning, PruningContext
from prunelab.methods.search.ddpg import AgentSettings
from prunelab.methods.search.evolution import Evolution
from prunelab.methods.search.racing import Race
from prunelab.methods.search.slimming_descent import Descent
from prunelab.methods.search.supernet import Supernet
from prunelab.methods.search.widths import WidthSpace
from prunelab.models import build

RECORDS = Path(__file__).parent / "records"
HALF = Budget(flops=0.5)
SEEDS = 2
"""Trained networks for ``amc_evaluations``."""

Batches = list[tuple[Tensor, Tensor]]
SCHEDULES: dict[str, dict[str, Any]] = {
    "paper": {},
    "warmup=30": {"warmup": 30},
    "warmup=20 agent.decay=0.9 patience=20": {
        "warmup": 20,
        "patience": 20,
        "agent": AgentSettings(decay=0.9),
    },
}


def main() -> None:
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "amc_episode": amc_episode,
        "amc_evaluations": amc_evaluations,
        "descent": descent,
        "generation": generation,
        "architecture_step": architecture_step,
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=[], metavar="PART", help=", ".join(parts))
    for name in parser.parse_args().parts or parts:
        found = {"machine": machine("torch", "numpy", "prunelab"), "clock": "processor", **parts[name]()}
        path = RECORDS / f"search_{name}.json"
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps({key: value for key, value in found.items() if key != "machine"}, indent=1))
        print(f"wrote {path}", flush=True)


def random_images(count: int, side: int = 32, size: int = 128) -> Batches:
    """Batches of random images (size, 3, side, side) with random classes."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size, 3, side, side, generator=generator),
            torch.randint(10, (size,), generator=generator),
        )
        for _ in range(count // size)
    ]


def in_turns(parts: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """The median seconds of processor time of each part; the first turn warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(repetitions + 1):
        for name, work in parts.items():
            start = time.process_time()
            work()
            if turn:
                seconds[name].append(time.process_time() - start)
    return {name: round(median(taken), 4) for name, taken in seconds.items()}


# AMC.


def amc_episode() -> dict[str, Any]:
    """One episode (widths, refit, accuracy, update of the agent), compared with one inference of the full network."""
    torch.manual_seed(0)
    network, held_out = build("cifar_resnet56", num_classes=10).eval(), random_images(256)
    method = AMC(HALF, warmup=0)
    context = method.context(network, held_out[0][0][:1], random_images(512), validation=held_out)
    scores = method.ranking(context)
    space = WidthSpace.of(context, scores)
    start = time.process_time()
    judge = method.judge(context)
    once = time.process_time() - start
    method.start(context, space)
    plain = plain_amc_episode(context, held_out)

    def episode() -> None:
        (candidate,) = method.ask()
        (score,) = judge([space.plan(candidate.widths, scores)])
        method.tell(candidate, float(score))

    def inference() -> None:
        with torch.no_grad():
            for images, targets in held_out:
                (network(images).argmax(dim=1) == targets).sum()

    def official() -> None:
        (candidate,) = method.ask()
        plain(space.plan(candidate.widths, scores))
        method.tell(candidate, 0.1)

    seconds = in_turns({"inference": inference, "episode": episode, "official": official}, 2)
    return {
        "network": "ResNet-56, 256 held-out images of 32x32",
        "seconds": {**seconds, "moments, once": round(once, 4)},
        "episode / inference": round(seconds["episode"] / seconds["inference"], 3),
        "official / episode": round(seconds["official"] / seconds["episode"], 3),
        "aim": "episode / inference at most 1.3",
    }


def amc_evaluations() -> dict[str, Any]:
    """Networks that AMC evaluates until a reward 0.1 points below the best one of the paper's schedule of 800 episodes.

    The schedule ends when 50 episodes in a row have equal widths; the agent would repeat them until the 800th.
    """
    found = []
    for seed in range(SEEDS):
        network, data, held_out, _ = on_digits(seed)
        best = 0.0
        for name, settings in SCHEDULES.items():
            scores, seconds = _rewards(network, data, held_out, AMC(HALF, seed=seed, **settings))
            best = best or max(scores)
            reached = [number for number, score in enumerate(scores, 1) if score >= best - 0.001 - 1e-12]
            found.append(
                {
                    "seed": seed,
                    "schedule": name,
                    "evaluated": len(scores),
                    "until 0.1 points below the paper's best": reached[0] if reached else None,
                    "best": round(max(scores), 4),
                    "seconds": round(seconds, 2),
                    "800 / evaluated": round(800 / len(scores), 1),
                    "800 / until": round(800 / reached[0], 1) if reached else None,
                }
            )
    return {"network": "ResNet-20 on digits, 719 held-out images", "runs": found, "aim": "at least 10"}


def _rewards(network: nn.Module, data: Digits, held_out: Batches, method: AMC) -> tuple[list[float], float]:
    """The rewards of all evaluated networks in their order, and the seconds."""
    rows: list[Any] = []
    context = method.context(
        network,
        held_out[0][0][:1],
        list(data.calibration_dataloader(512)),
        validation=held_out,
        report=lambda evaluations, first: rows.extend(evaluations[first:]),
    )
    start = time.process_time()
    method.decide(context)
    return [row.score for row in rows], time.process_time() - start


# AutoSlim.


class Compared(Descent):
    """A descent in which a plain comparison and a race make each decision in turn.

    RACES: name -> race; SECONDS: of each; STEPS: errors and losses of all candidates of each step.
    """

    def _best(self, row: Any, grids: Any, race: Race) -> Any:
        if not RACES:
            held_out = [(race.images, race.targets)]
            RACES.update(
                {
                    "plain": Race(race.supernet, held_out, {}, race=False),
                    "race": race,
                }
            )
        moves, found = self._moves(row, grids), []
        for name, version in RACES.items():
            start = time.process_time()
            found.append(version.best(row, moves))
            SECONDS[name] += time.process_time() - start
        sums = RACES["plain"].heat.found.sum(dim=1).tolist()
        STEPS.append({name: tuple(both) for name, both in zip(moves, sums, strict=True)})
        DIFFERENT.append(len(set(found)) > 1)
        return moves[found[0]]


RACES: dict[str, Any] = {}
SECONDS: Counter[str] = Counter()
STEPS: list[dict[str, tuple[float, ...]]] = []
DIFFERENT: list[bool] = []


def descent() -> dict[str, Any]:
    """The greedy descent, compared with one that runs every candidate over all images from its first layer.

    Lazy evaluation is simulated: with errors of earlier steps as lower bounds, how many evaluations remain, and how
    many decisions are other ones?
    """
    found = []
    for steps in (120, 600):
        network, _, held_out, order = on_digits(0, supernet=True, steps=steps)
        context = AutoSlim(HALF).context(network, held_out[0][0][:1], validation=held_out)
        for each in (RACES, SECONDS, STEPS, DIFFERENT):
            each.clear()
        Compared(context, Supernet(context, order), 12)()
        seconds = {name: round(taken, 2) for name, taken in SECONDS.items()}
        errors = [min(values.values())[0] / 719 for values in STEPS]
        found.append(
            {
                "seed": 0,
                "training steps of the supernet": steps,
                "errors of the chosen networks": [round(min(errors), 3), round(max(errors), 3)],
                "seconds": seconds,
                "plain / race": round(seconds["plain"] / seconds["race"], 2),
                "evaluated images": round(RACES["race"].evaluated, 3),
                "decisions": len(DIFFERENT),
                "decisions that differ": sum(DIFFERENT),
                "lazy evaluation": lazily(STEPS),
            }
        )
    return {"network": "ResNet-20 on digits, 719 held-out images", "runs": found, "aim": "at least 5"}


# A generation.


def generation() -> dict[str, Any]:
    """Several candidates in one call of the judge, compared with one after another as in the official code."""
    torch.manual_seed(0)
    network, held_out, calibration = (
        build("cifar_resnet20", num_classes=10).eval(),
        random_images(256),
        random_images(128, size=64),
    )
    return {
        "network": "ResNet-20, 256 held-out images of 32x32 in batches of 128, 128 calibration images in batches of 64",
        "EagleEye": _eagleeye(network, held_out, calibration),
        "MetaPruning": _metapruning(network, held_out, calibration),
        "aim": "at least 3",
    }


def _eagleeye(network: nn.Module, held_out: Batches, calibration: Batches) -> dict[str, Any]:
    method = EagleEye(HALF, candidates=50)
    context = method.context(network, held_out[0][0][:1], calibration, validation=held_out)
    scores, judge = method.ranking(context), method.judge(context)
    space = WidthSpace.of(context, scores)
    method.start(context, space)
    rows = np.stack([candidate.widths for candidate in method.ask()])
    plans = [space.plan(row, scores) for row in rows[::10]]
    seconds = in_turns(
        {
            "one call": lambda: judge(plans),
            "one after another": lambda: [
                plain_eagleeye(network, plan, calibration, held_out) for plan in plans
            ],
        },
        2,
    )
    return _compared(seconds) | {"cost of shared prefixes": shared_fraction(context, space, scores, rows)}


def _metapruning(network: nn.Module, held_out: Batches, calibration: Batches) -> dict[str, Any]:
    network = copy.deepcopy(network)
    method = MetaPruning(HALF)
    context = method.context(network, held_out[0][0][:1], calibration, validation=held_out)
    method.prepare(context)
    method.finish(context)
    net = method._net
    assert net is not None
    evolution = Evolution(HALF, net, method.schedule)
    scores, judge = evolution.ranking(context), evolution.judge(context)
    space = WidthSpace.of(context, scores)
    evolution.start(context, space)
    generator = np.random.default_rng(0)
    for candidate in evolution.ask():  # the first generation, with rewards at random
        evolution.tell(candidate, float(generator.random()))
    rows = np.stack([candidate.widths for candidate in evolution.ask()])
    plans = [space.plan(row, scores) for row in rows[::10]]
    seconds = in_turns(
        {
            "one call": lambda: judge(plans),
            "one after another": lambda: [
                plain_metapruning(network, net, plan, calibration, held_out) for plan in plans
            ],
        },
        2,
    )
    return _compared(seconds) | {"cost of shared prefixes": shared_fraction(context, space, scores, rows)}


def _compared(seconds: dict[str, float]) -> dict[str, Any]:
    ratio = seconds["one after another"] / seconds["one call"]
    return {"seconds": seconds, "one after another / one call": round(ratio, 3)}


# DMCP and TAS.


def architecture_step() -> dict[str, Any]:
    """A step of the logits, compared with a plain training step at full width."""
    torch.manual_seed(0)
    network, batches = build("cifar_resnet56", num_classes=10).train(), random_images(256, size=64)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9)
    batch = batches[0]

    def plain() -> None:
        functional.cross_entropy(network(batch[0]), batch[1]).backward()
        optimizer.step()
        optimizer.zero_grad()

    dmcp = DMCP(HALF)
    context = dmcp.context(network, batch[0][:1], validation=batches)
    dmcp.begin(context)
    dmcp.step, dmcp.steps = 0, 1000
    dmcp.prepare(context)

    def logits() -> None:
        dmcp._add_logit_gradients(context, batch, network)
        dmcp.after_step(context, {})

    first = in_turns({"plain step": plain, "DMCP": logits}, 5)
    tas = TAS(HALF, from_scratch=False)
    other = build("cifar_resnet56", num_classes=10).train()
    learning = tas.context(other, batch[0][:1], validation=batches)
    tas.begin(learning)
    tas.step, tas.steps = 0, 1000
    tas.prepare(learning)
    second = in_turns({"plain step": plain, "TAS": lambda: tas.after_step(learning, {})}, 5)
    return {
        "network": "ResNet-56, 64 images of 32x32",
        "seconds": {"of DMCP": first, "of TAS": second},
        "DMCP / plain step": round(first["DMCP"] / first["plain step"], 3),
        "TAS / plain step": round(second["TAS"] / second["plain step"], 3),
        "aim": "at most 1.3",
    }


# A trained network.


def on_digits(
    seed: int, supernet: bool = False, steps: int = 120
) -> tuple[nn.Module, Digits, Batches, dict[str, list[int]]]:
    """A ResNet-20 trained on half of the training images of digits, alone or as a supernet, and the other half.

    Also the order of its channels in the supernet.
    """
    data = Digits(val_fraction=0.5, seed=seed)
    data.prepare_data()
    data.setup("fit")
    torch.manual_seed(seed)
    network = build("cifar_resnet20", num_classes=10, in_chans=1).train()
    held_out: Batches = [tuple(batch) for batch in data.validation_dataloader(1000)]
    method = AutoSlim(HALF, seed=seed)
    context: PruningContext = method.context(network, held_out[0][0][:1], validation=held_out)
    method.begin(context)
    method.prepare(context)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    batches: Sequence[Any] = []
    for step in range(steps):
        if step % max(1, len(batches)) == 0:
            batches = list(data.train_dataloader())
        images, targets = batches[step % len(batches)]
        if supernet:
            loss = method.training_loss(context, (images, targets), network)
        else:
            loss = functional.cross_entropy(network(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    method.learning = None
    return network.eval(), data, held_out, method.state_dict()["order"]


if __name__ == "__main__":
    main()
