"""The GPU hours of the rows of a study: counted operations divided by an assumed speed.

    python experiments/hours.py table2
    python experiments/hours.py cifar10_resnet56 --tflops 312 --utilisation 0.03

Operations are counted from the configuration of each row: training on an image takes three forward passes, and for a
pruned network the fraction of them that its budget keeps, round by round. The cost of scoring in training steps is
read from records/step_costs.json (measured on a CPU), except for curl (one pass over half of the network for each
channel and image), eagleeye (one pass over each of its images for each candidate), amc (one pass over the held-out
images for each episode), metapruning (as eagleeye) and autoslim (one pass over them for each group and decision).
Each row counts its learning, also of AutoSlim and MetaPruning, whose rows share one training if they run in one output
folder. Reading images, latency and checkpoints are not counted, and the utilisation of a pruned network is assumed to
be that of the full one: real times are longer, above all for strongly pruned networks.

Speed = --tflops x --utilisation. 312 TFLOPS is the peak of an A100 in bfloat16. 0.2 of it is 2,550 images per second
for ResNet-50 in training, which such a GPU reaches if images are read fast enough; small images and networks have a
much lower utilisation.

Writes experiments/<study>/records/hours.json and experiments/<study>/hours.md.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from prunelab.cli.config import configure
from prunelab.methods import AMC, ABCPruner, AutoSlim, LearningMethod, MetaPruning
from prunelab.recipes import Round
from prunelab.steps import Setup
from prunelab.steps.baseline import TrainedBaseline
from prunelab.steps.parts import portion
from prunelab.structure import ChannelGraph, analyze
from prunelab.training import Training

HERE = Path(__file__).parent
CONF = HERE.parent / "conf" / "experiment"
IMAGES = {"imagenet": (1_281_167, 50_000), "cifar10": (50_000, 10_000)}
"""Training and test images."""

BACKWARD = 2
"""The backward pass takes the time of this number of forward passes."""

TESTS = 2
"""Passes over the test images: after pruning, and at the end."""

MEASURED_AS = {
    "apoz": "entropy",
    "channel_pruning": "thinet",
    "hrank": "hrank",
    "chip": "chip",
    "entropy": "entropy",
    "thinet": "thinet",
}
"""For methods without a measured cost of scoring: the method whose cost is used."""


STEPS = {"lfpc": 2, "autoslim": 1.6, "dmcp": 2.1, "tas": 1.2, "metapruning": 0.33}
"""The cost of a step of learning, in steps of the full network: LFPC reads a second batch. AutoSlim and DMCP also train
two random networks, with 0.1 to 1 of the widths and therefore about 0.3 of the cost, and the narrowest one; in its
second half DMCP takes a further step for the logits. TAS takes two steps at the larger of two widths, each for about
0.6 of the cost. MetaPruning trains one network with random widths, whose mean cost for a ResNet-50 is 0.33."""


@dataclass(frozen=True)
class Hours:
    """GPU hours of the parts of a row. ``baseline`` is that of the full network, which rows share."""

    row: str
    baseline: float
    learning: float
    scoring: float
    recovery: float
    epochs: int

    @property
    def total(self) -> float:
        return self.learning + self.scoring + self.recovery


def hours(study: str, row: str, speed: float, step_costs: dict[str, float]) -> Hours:
    """The hours of one row at ``speed`` operations per second; ``step_costs``: costs of scoring an image, in training
    steps."""
    setup = Setup.of(configure([f"experiment={study}/{row}", "trainer=cpu"]))
    task, method = setup.task, setup.method
    graph = analyze(task.network(), task.example_input())
    full = float(graph.cost.flops())
    images, tests = IMAGES[setup.names["data"]]
    held_out = round(images * task.data.val_fraction)
    trained_on = images - held_out

    def training(settings: Training | None, keep: float) -> float:
        if settings is None:
            return 0.0
        return settings.epochs * keep * full * ((1 + BACKWARD) * trained_on + held_out)

    rounds = setup.recipe.rounds(setup.budget.keep)
    keeps = [_keep(graph, setup, each) for each in rounds]
    recovery = sum(training(each.training, keep) for each, keep in zip(rounds, keeps, strict=True))
    recovery += TESTS * tests * setup.budget.keep * full
    learned = method.training if isinstance(method, LearningMethod) else None
    learning = training(learned, 1.0) * STEPS.get(setup.names["method"], 1)
    if isinstance(method, ABCPruner):
        candidates = method.sources * (1 + 2 * method.cycles) + 1  # the winner is trained again
        learning = candidates * training(method.training, setup.budget.keep)
    baseline = setup.baseline.training if isinstance(setup.baseline, TrainedBaseline) else None
    scale = 1 / speed / 3600
    return Hours(
        row=row,
        baseline=scale * training(baseline, 1.0),
        learning=scale * learning,
        scoring=scale * _scoring(setup, graph, full, len(rounds), step_costs),
        recovery=scale * recovery,
        epochs=sum(each.training.epochs for each in rounds if each.training)
        + (learned.epochs if learned else 0),
    )


def _keep(graph: ChannelGraph, setup: Setup, step: Round) -> float:
    """The fraction of the full network that is kept after a round."""
    if step.part[1] == 1:
        return step.keep
    return portion(graph, setup.method, setup.budget, step.part).budget.keep


def _scoring(
    setup: Setup, graph: ChannelGraph, full: float, rounds: int, step_costs: dict[str, float]
) -> float:
    """Operations of scoring, in all rounds; 0 for methods that only read weights."""
    method, name = setup.method, setup.names["method"]
    if name == "curl":
        channels = sum(group.size for group in graph.at(method.levels) if group.name not in method.exclude)
        return channels * method.criterion.proxy_images * full / 2  # type: ignore[attr-defined]
    if name == "eagleeye":
        passes = method.sampler.count * (method.images + method.validation_images)  # type: ignore[attr-defined]
        return passes * setup.budget.keep * full
    if isinstance(method, MetaPruning):
        networks = method.schedule.generations * method.schedule.population
        return networks * (method.images + method.validation_images) * setup.budget.keep * full
    if isinstance(method, AMC):
        return method.episodes * method.validation_images * setup.budget.keep * full
    if isinstance(method, AutoSlim):
        groups = len([group for group in graph.at(method.levels) if group.name not in method.exclude])
        decisions = groups * method.steps_of_group * (1 - setup.budget.keep**0.5)
        return decisions * groups * method.validation_images * (1 + setup.budget.keep) / 2 * full
    if name not in MEASURED_AS:
        return 0.0
    return rounds * method.images * step_costs[MEASURED_AS[name]] * (1 + BACKWARD) * full


def table(rows: list[Hours]) -> str:
    """The table as Markdown."""
    lines = [
        "| Row | Epochs | Learning, h | Scoring, h | Recovery, h | Together, h |",
        "| :-- | --: | --: | --: | --: | --: |",
    ]
    for each in rows:
        figures = (each.learning, each.scoring, each.recovery, each.total)
        lines.append(
            f"| {each.row} | {each.epochs} | " + " | ".join(_written(figure) for figure in figures) + " |"
        )
    total = sum(each.total for each in rows)
    lines.append(f"| all {len(rows)} | | | | | {_written(total)} |")
    if baseline := max(each.baseline for each in rows):
        lines.append(f"| their baseline, once | | | | | {_written(baseline)} |")
    return "\n".join(lines) + "\n"


def _written(figure: float) -> str:
    return "" if figure == 0 else f"{figure:.2g}" if figure < 10 else f"{figure:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", choices=("table2", "cifar10_resnet56"))
    parser.add_argument("--tflops", type=float, default=312.0, help="peak of the GPU (A100 in bfloat16: 312)")
    parser.add_argument("--utilisation", type=float, default=0.2, help="fraction of it that training reaches")
    arguments = parser.parse_args()
    folder = HERE / arguments.study
    costs = json.loads((folder / "records" / "step_costs.json").read_text())["in_training_steps"]
    names = sorted(file.stem for file in (CONF / arguments.study).glob("*.yaml"))
    speed = arguments.tflops * 1e12 * arguments.utilisation
    rows = [hours(arguments.study, name, speed, costs) for name in names]
    record = {
        "assumed": {
            "tflops": arguments.tflops,
            "utilisation": arguments.utilisation,
            "forward_passes_of_a_step": 1 + BACKWARD,
        },
        "step_costs": costs,
        "hours": [{**asdict(each), "total": each.total} for each in rows],
    }
    (folder / "records" / "hours.json").write_text(json.dumps(record, indent=2) + "\n")
    (folder / "hours.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
