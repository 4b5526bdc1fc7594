"""The knapsack allocation compared with the others, for every resource: what it loses, and the accuracy that remains.

    OMP_NUM_THREADS=1 python experiments/benchmarks/allocation.py --images CIFAR10 --weights resnet20.safetensors

ResNet-20 with trained weights is pruned without training. ``--images`` holds train/<class>/ and val/<class>/. A row is
written to experiments/benchmarks/records/allocation.jsonl as soon as it is measured; rows that are there are not
repeated. ``lost`` is the sum of the removed scores as the knapsack adds them (normalised in each group unless scores
are losses), divided by what the smallest widths lose; ``top1`` is measured after the cut and after ``sequential``
(weights refitted).
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import prunelab
from prunelab.calibration import STEPS, Pair
from prunelab.data import ImageFolder
from prunelab.errors import UserError
from prunelab.evaluation import LatencyModel
from prunelab.methods import Criterion, ImportanceMethod
from prunelab.methods.allocation.candidate_widths import build_candidate_widths
from prunelab.methods.allocation.knapsack import losses_of
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.context import PruningContext
from prunelab.methods.importance.criterion import Reads
from prunelab.methods.latency_budget import decide
from prunelab.models import build
from prunelab.structure import PruningPlan

RECORD = Path(__file__).parent / "records" / "allocation.jsonl"
CRITERIA: dict[str, Criterion] = {
    "l1": prunelab.L1Norm(),
    "taylor": prunelab.Taylor(),
    "fisher": prunelab.Fisher(),
}
LOSSES = ("fisher",)
"""Criteria whose scores are losses, which are not normalised; their own allocation is per_cost."""

RULES = ("global", "per_cost", "knapsack", "uniform")
BUDGETS = (("flops", 0.5), ("params", 0.5), ("latency", 0.7))
CALIBRATION, EVALUATED = 512, 2000

SORTED_BY = ("criterion", "resource", "allocation")
HEADINGS = (
    "criterion", "budget", "allocation", "lost", "FLOPs", "parameters", "latency", "top-1, as cut", "top-1, refitted",
    "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Fixed(Criterion):
    """Scores that were computed before: they do not depend on the budget."""

    reads: ClassVar[Reads] = "weights"
    scores: Scores = field(default_factory=lambda: Scores({}, {}))

    def score(self, context: PruningContext) -> Scores:
        """The scores."""
        return self.scores


class Comparison:
    """The network, its images, and the rows that were measured."""

    def __init__(
        self, images: Path, weights: Path, record: Path, criteria: Sequence[str], rules: Sequence[str]
    ) -> None:
        self.criteria, self.rules = criteria, rules
        self.model = build("cifar_resnet20", num_classes=10, in_chans=3, image_size=(32, 32)).eval()
        self.model.load_state_dict(load_file(weights), strict=False)  # constants are missing
        data = ImageFolder(images, eval_batch_size=50, num_workers=0)
        data.setup()
        self.batches = list(data.calibration_dataloader(CALIBRATION))
        self.images = [each for each, _ in self.batches]
        self.test = list(data.some_test_images(EVALUATED))
        self.record = record
        lines = record.read_text().splitlines() if record.is_file() else []
        self.done = {self._key(json.loads(line)) for line in lines}
        self.example = self.images[0][:1]
        self.latency: LatencyModel | None = None

    @staticmethod
    def _key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["criterion"], row["resource"], row["keep"], row["allocation"]

    def run(self, tables: Path) -> None:
        """Measure the missing rows."""
        for name in self.criteria:
            criterion = CRITERIA[name]
            wanted = [
                (resource, keep, rule)
                for resource, keep in BUDGETS
                for rule in self.rules
                if (name, resource, keep, rule) not in self.done
            ]
            if not wanted:
                continue
            plain = ImportanceMethod(criterion, prunelab.Budget(flops=0.5), images=CALIBRATION)
            scores = criterion.score(plain.context(self.model, self.example, self.batches))
            for resource, keep, rule in wanted:
                row = {"criterion": name, "resource": resource, "keep": keep, "allocation": rule}
                self._write(row | self._measured(name, scores, resource, keep, rule, tables))

    def _measured(
        self, name: str, scores: Scores, resource: str, keep: float, rule: str, tables: Path
    ) -> dict[str, Any]:
        target = prunelab.Target(tables=str(tables)) if resource == "latency" else None
        budget = prunelab.Budget(**{resource: keep}, target=target)
        normalisation = "none" if name in LOSSES or rule == "per_cost" else None
        method = ImportanceMethod(Fixed(scores=scores), budget, normalisation, allocation=rule)  # type: ignore[arg-type]
        context = method.context(self.model, self.example, latency=self._latency(target), name="resnet20")
        start = time.process_time()
        try:
            plan, summary = decide(method, context)
        except UserError as error:
            return {"error": str(error)}
        cost = context.graph.cost
        found: dict[str, Any] = {
            "seconds": round(time.process_time() - start, 2),
            "lost": _lost(context, scores, plan, "none" if name in LOSSES else "mean"),
            "flops": cost.flops(plan) / cost.flops(),
            "params": cost.params(plan) / cost.params(),
            "measured": None if summary is None else summary.measured,
        }
        return found | dict(self._accuracies(plan))

    def _latency(self, target: prunelab.Target | None) -> LatencyModel | None:
        if target is None:
            return None
        if self.latency is None:
            graph = prunelab.analyze(self.model, self.example)
            self.latency = LatencyModel.of(self.model, graph, self.example, target)
        return self.latency

    def _accuracies(self, plan: PruningPlan) -> Iterator[tuple[str, float]]:
        pruned = prunelab.apply(copy.deepcopy(self.model), plan)
        yield "top1_cut", self._top1(pruned)
        STEPS["sequential"](Pair(self.model, pruned, plan, self.images, self.example, 0))
        yield "top1_sequential", self._top1(pruned)

    @torch.no_grad()
    def _top1(self, network: nn.Module) -> float:
        hits = [_hits(network(images), classes) for images, classes in self.test]
        return sum(hits) / sum(len(classes) for _, classes in self.test)

    def _write(self, row: dict[str, Any]) -> None:
        self.record.parent.mkdir(exist_ok=True)
        with self.record.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def table_of(record: Path) -> str:
    """The measured rows as the table of README.md, in the order of criteria, budgets and rules."""
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    resources = [resource for resource, _ in BUDGETS]
    order = ([*CRITERIA], resources, [*RULES])
    rows.sort(key=lambda row: [known.index(row[name]) for known, name in zip(order, SORTED_BY, strict=True)])
    heading = f"| {' | '.join(HEADINGS)} |"
    return "\n".join([heading, "|---" * len(HEADINGS) + "|", *map(_line, rows)])


def _line(row: dict[str, Any]) -> str:
    start = f"| {row['criterion']} | {row['resource']} {row['keep']} | {row['allocation']} |"
    if "error" in row:
        return f"{start} not reached |" + " |" * 6
    latency = "" if row["measured"] is None else f"{row['measured']:.3f}"
    return (
        f"{start} {row['lost']:.3f} | {row['flops']:.3f} | {row['params']:.3f} | {latency} | "
        f"{100 * row['top1_cut']:.1f} | {100 * row['top1_sequential']:.1f} | {row['seconds']:.2f} |"
    )


def _hits(logits: Tensor, classes: Tensor) -> int:
    return int((logits.argmax(dim=1) == classes).sum())


def _lost(context: PruningContext, scores: Scores, plan: PruningPlan, normalisation: str) -> float:
    """The sum of the (normalised) scores of the removed channels, as a fraction of what the smallest widths
    lose."""
    allocation = replace(context.allocation, normalisation=normalisation, divisor=1)
    options = build_candidate_widths(context.graph, scores, context.levels, allocation, None)
    lost = total = 0.0
    for option, losses in zip(options, losses_of(options, scores, allocation), strict=True):
        total += float(losses.max())
        before, after = plan.widths.get(option.name, (0, 0))
        place = [int(width) for width in option.widths].index(after) if after else 0
        lost += float(losses[place]) if before != after else 0.0
    return lost / total


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder with train/ and val/")
    parser.add_argument("--weights", type=Path, required=True, help="weights of the ResNet-20")
    parser.add_argument("--criteria", nargs="+", choices=CRITERIA, default=list(CRITERIA))
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument(
        "--tables", type=Path, default=Path("outputs/latency"), help="folder of latency tables"
    )
    parser.add_argument("--record", type=Path, default=RECORD)
    options = parser.parse_args()
    torch.set_num_threads(1)
    comparison = Comparison(options.images, options.weights, options.record, options.criteria, options.rules)
    comparison.run(options.tables)
    print(table_of(options.record))


if __name__ == "__main__":
    main()
