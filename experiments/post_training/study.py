"""Accuracy without training: every one-shot criterion, right after pruning and after each calibration step.

    python experiments/post_training/study.py --network lite0 --images IMAGENET_SAMPLES --weights FOLDER
    python experiments/post_training/study.py --network resnet56 --images CIFAR10_FOLDERS --weights FOLDER

``--images`` holds train/<class>/*.jpg (calibration) and val/<class>/*.jpg (evaluation); ``--weights`` holds
tf_efficientnet_lite0.safetensors, resnet56.safetensors or resnet20.safetensors. All choices use calibration images,
evaluation images are not used. Writes records/<network>.jsonl (or another name, ``--records``), one line for each
network that was evaluated; existing lines are not measured again. Seconds are processor time of one thread, which is
independent of other programs; records made on a GPU name it (``device``), and their seconds are those of the processor
that controls it. ``table.py`` makes the tables.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from data import Images, load_images
from prunelab.calibration import STEPS, Distil, Pair
from prunelab.errors import UserError
from prunelab.methods import (
    FPGM,
    OBS,
    APoZ,
    BNGamma,
    Budget,
    ChannelPruning,
    Criterion,
    Entropy,
    Fisher,
    HRank,
    ImportanceMethod,
    L1Norm,
    L2Norm,
    PruningMethod,
    Random,
    ReconstructionPruning,
    Scores,
    Taylor,
    ThiNet,
)
from prunelab.methods.allocation.from_scores import keep_best
from prunelab.models import build
from prunelab.structure import CostModel, PruningPlan, apply

RECORDS = Path(__file__).parent / "records"
KEEPS = {"lite0": (0.95, 0.9, 0.8, 0.7), "resnet56": (0.7, 0.5, 0.3), "resnet20": (0.7, 0.5, 0.3)}
CRITERIA: dict[str, Criterion] = {
    "random": Random(),
    "l1": L1Norm(),
    "l2": L2Norm(),
    "fpgm": FPGM(),
    "bn_gamma": BNGamma(),
    "apoz": APoZ(),
    "entropy": Entropy(),
    "hrank": HRank(),
    "taylor": Taylor(),
    "fisher": Fisher(),
    "obs": OBS(),
}
RULES = {"thinet": ThiNet(), "channel_pruning": ChannelPruning()}
PER_COST = ("fisher", "obs")
"""Criteria whose scores are losses: their own allocation is per_cost."""

ALL_STEPS = {
    **STEPS,
    "distil_long": Distil(steps=1500),
    "distil_mixed": Distil(steps=800, rates=(1e-3,), mix=True),
}

CHAINS: dict[str, tuple[str, ...]] = {
    "bn": ("bn",),
    "bias": ("bias",),
    "least_squares": ("least_squares",),
    "sequential": ("sequential",),
    "blockwise": ("sequential", "blockwise"),
    "distil": ("sequential", "blockwise", "distil"),
    "distil_long": ("sequential", "blockwise", "distil_long"),
    "distil_mixed": ("sequential", "blockwise", "distil_mixed"),
}
"""Each column of the table, and the calibration steps that lead to it."""

COLUMNS = ["cut", "bn", "bias", "least_squares", "sequential", "blockwise"]


def method_of(name: str, keep: float, allocation: str | None, images: int, seed: int) -> PruningMethod:
    """A method of the study with its settings."""
    budget = Budget(flops=keep)
    if name in RULES:
        return ReconstructionPruning(RULES[name], budget, images=images, seed=seed)
    rule = allocation or ("per_cost" if name in PER_COST else "global")
    normalisation = "none" if allocation == "per_cost" else None
    return ImportanceMethod(CRITERIA[name], budget, normalisation, allocation=rule, images=images, seed=seed)


def network(name: str, weights: Path) -> nn.Module:
    """The trained network in evaluation mode."""
    if name == "lite0":
        model: nn.Module = timm.create_model("tf_efficientnet_lite0")
        model.load_state_dict(load_file(weights / "tf_efficientnet_lite0.safetensors"))
    else:
        model = build(f"cifar_{name}", num_classes=10, in_chans=3, image_size=(32, 32))
        model.load_state_dict(
            load_file(weights / f"{name}.safetensors"), strict=False
        )  # constants are missing
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, classes: Tensor, batch: int = 25) -> float:
    """Top-1 accuracy, a fraction."""
    hits = sum(
        int((model(part.contiguous(memory_format=torch.channels_last)).argmax(dim=1) == wanted).sum())
        for part, wanted in zip(images.split(batch), classes.split(batch), strict=True)
    )
    return hits / len(images)


class Study:
    """One network, its images, and the records of evaluated networks."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        self.model = network(options.network, options.weights).to(
            self.device, memory_format=torch.channels_last
        )
        self.images: Images = load_images(options.network, options.images, options.evaluate).to(self.device)
        self.path = RECORDS / f"{options.records or options.network}.jsonl"
        self.scores: dict[tuple[str, int], tuple[Scores, float]] = {}
        self.done = {self._key(json.loads(line)) for line in self._lines()}

    def _lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    @staticmethod
    def _key(record: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(record[name] for name in ("method", "allocation", "keep", "column", "seed"))

    def run(self) -> None:
        """Evaluate the missing networks."""
        self._full()
        for seed in self.options.seeds:
            calibration, classes = self.images.calibration(self.options.count, seed)
            calibration = calibration.contiguous(memory_format=torch.channels_last)
            batches = list(zip(calibration.split(25), classes.split(25), strict=True))
            for name in self.options.methods:
                for keep in self.options.keeps or KEEPS[self.options.network]:
                    self._method(name, keep, seed, batches)

    def _full(self) -> None:
        record = {"method": "none", "allocation": None, "keep": 1.0, "column": "full", "seed": 0}
        if self._key(record) not in self.done:
            self._write({**record, "top1": accuracy(self.model, *self.images.evaluation)})

    def _method(self, name: str, keep: float, seed: int, batches: list[tuple[Tensor, Tensor]]) -> None:
        allocation = self.options.allocation
        common = {"method": name, "allocation": allocation, "keep": keep, "seed": seed}
        wanted = [column for column in ("cut", *CHAINS) if column in self.options.columns]
        missing = [column for column in wanted if self._key({**common, "column": column}) not in self.done]
        if not missing:
            return
        try:
            plan, cost, common["score_s"] = self._plan(name, keep, seed, batches)
        except UserError as error:
            self._write({**common, "column": "cut", "error": str(error)})
            return
        common |= {"flops": cost.flops(plan) / cost.flops(), "params": cost.params(plan) / cost.params()}
        for column, top1, seconds in self._columns(missing, plan, batches, seed):
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            self._write(
                {**common, "column": column, "top1": top1, "seconds": seconds, "memory_gb": round(memory, 2)}
            )

    def _plan(
        self, name: str, keep: float, seed: int, batches: list[tuple[Tensor, Tensor]]
    ) -> tuple[PruningPlan, CostModel, float]:
        """The plan of a method, and its seconds; a criterion scores once for all budgets."""
        count = sum(len(images) for images, _ in batches)
        method = method_of(name, keep, self.options.allocation, count, seed)
        context = method.context(self.model, batches[0][0][:1], batches, self.device)
        start = time.process_time()
        if not isinstance(method, ImportanceMethod):
            plan = method.decide(context)
            return plan, context.graph.cost, round(time.process_time() - start, 1)
        if (name, seed) not in self.scores:
            self.scores[name, seed] = method.criterion.score(context), time.process_time() - start
        scores, seconds = self.scores[name, seed]
        return keep_best(context, scores), context.graph.cost, round(seconds, 1)

    def _columns(
        self, missing: list[str], plan: PruningPlan, batches: list[tuple[Tensor, Tensor]], seed: int
    ) -> Iterator[tuple[str, float, float]]:
        """(column, accuracy, seconds of its steps); common steps of columns are done once."""
        images = [images for images, _ in batches]
        reached: dict[tuple[str, ...], tuple[nn.Module, float]] = {
            (): (apply(copy.deepcopy(self.model), plan), 0.0)
        }
        for column in missing:
            chain = CHAINS.get(column, ())
            for end in range(1, len(chain) + 1):
                if chain[:end] not in reached:
                    before, seconds = reached[chain[: end - 1]]
                    after = copy.deepcopy(before)
                    start = time.process_time()
                    ALL_STEPS[chain[end - 1]](Pair(self.model, after, plan, images, images[0][:1], seed))
                    reached[chain[:end]] = after, seconds + time.process_time() - start
            found, seconds = reached[chain]
            yield column, accuracy(found, *self.images.evaluation), round(seconds, 1)

    def _write(self, record: dict[str, Any]) -> None:
        RECORDS.mkdir(exist_ok=True)
        settings = {
            "network": self.options.network,
            "images": self.options.count,
            "evaluated": len(self.images.evaluation[1]),
        }
        if self.device.type != "cpu":
            settings["device"] = str(self.device)
        line = json.dumps({**settings, **record})
        with self.path.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)


def main() -> None:
    """Read the command line and run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--network", choices=KEEPS, required=True)
    parser.add_argument("--images", type=Path, required=True, help="folder with train/ and val/")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--records", default=None, help="name of the file of records; default: the network")
    parser.add_argument("--methods", nargs="+", default=[*CRITERIA, *RULES])
    parser.add_argument("--keeps", nargs="+", type=float, default=None, help="fractions of the FLOPs")
    parser.add_argument("--columns", nargs="+", choices=["cut", *CHAINS], default=COLUMNS)
    parser.add_argument("--allocation", default=None, help="instead of the method's own")
    parser.add_argument("--count", type=int, default=512, help="calibration images at most")
    parser.add_argument("--evaluate", type=int, default=None, help="evaluation images at most")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda; seconds are comparable on one device")
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # float32 on a GPU as on a CPU
    Study(parser.parse_args()).run()


if __name__ == "__main__":
    main()
