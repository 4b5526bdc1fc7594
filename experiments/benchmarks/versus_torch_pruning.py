"""prunelab and torch-pruning, side by side: how long does each take, and how close does each come to its target?

(a) analysis: finding the structure of the network (``prunelab.analyze``; torch-pruning's ``DependencyGraph``).
(b) pruning: network to pruned network at 50 % of the FLOPs (torch-pruning: MACs), L2 norm, one global ranking,
    everything included: analysis, scores, counting, surgery. torch-pruning takes a fraction of channels, not of
    operations, so it prunes in steps and counts after each, as its own ``reproduce/main.py`` does, until half is gone;
    ``--steps`` says into how many steps the way to nothing is divided. Few steps are faster, many land closer; the
    ratios are against the fastest.

Copies are made before the clock starts. The two libraries take turns in one process, on as many threads.

    pip install "prunelab[benchmarks]"
    OMP_NUM_THREADS=1 python experiments/benchmarks/versus_torch_pruning.py
    OMP_NUM_THREADS=1 python experiments/benchmarks/versus_torch_pruning.py --only mobilenetv2_100 --repetitions 1

Writes experiments/benchmarks/records/versus_torch_pruning.json (not with --only).
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
from pathlib import Path
from typing import Any

import timm
import torch
import torch_pruning
from timing import Stopwatch, floor, machine
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from prunelab.methods import Budget, L2Norm, PruningContext, allocate
from prunelab.structure import analyze, apply

NETWORKS = ("resnet50", "resnet152", "densenet121", "vgg16_bn", "mobilenetv2_100", "efficientnet_b0")
RECORD = Path(__file__).parent / "records" / "versus_torch_pruning.json"
KEEP = 0.5


def with_prunelab(model: nn.Module, images: Tensor, watch: Stopwatch) -> None:
    """Prune ``model`` in place with prunelab; its stages are timed one by one too."""
    budget = Budget(flops=KEEP)
    with watch.measure("prunelab pruning"):
        with watch.measure("prunelab: analyze"):
            graph = analyze(model, images)
        with watch.measure("prunelab: score"):
            scores = L2Norm().score(PruningContext(model, graph, budget))
        with watch.measure("prunelab: allocate"):
            plan = allocate(graph, scores, budget)
        with watch.measure("prunelab: apply"):
            apply(model, plan)


def with_torch_pruning(model: nn.Module, images: Tensor, watch: Stopwatch, steps: int) -> None:
    """Prune ``model`` in place with torch-pruning, as its documentation shows."""
    with watch.measure(f"torch-pruning pruning, {steps} steps"):
        classifier = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]
        full, _ = torch_pruning.utils.count_ops_and_params(model, images)
        pruner = torch_pruning.pruner.BasePruner(
            model,
            images,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=1.0,
            iterative_steps=steps,
            ignored_layers=classifier,
        )
        left = full
        while left > KEEP * full and pruner.current_step < pruner.iterative_steps:
            pruner.step()
            left, _ = torch_pruning.utils.count_ops_and_params(model, images)


def operations(model: nn.Module, images: Tensor) -> int:
    """Multiplications and additions of one pass, by PyTorch's own counter: the judge of both."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    return int(counter.get_total_flops())


def compare(name: str, repetitions: int, steps: list[int]) -> dict[str, Any]:
    """Both libraries on one network."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    images = torch.zeros(1, 3, 224, 224)
    full = operations(model, images)
    watch, landed = Stopwatch(), {}
    forward = floor(lambda: timm.create_model(name), images)
    runs = {"prunelab": lambda copied: with_prunelab(copied, images, watch)}
    for count in steps:
        runs[f"torch-pruning, {count} steps"] = lambda copied, count=count: with_torch_pruning(
            copied, images, watch, count
        )
    for _ in range(repetitions):
        with watch.measure("floor: a pass on the meta device"):
            forward()
        with watch.measure("prunelab analysis"):
            analyze(model, images)
        with watch.measure("torch-pruning analysis"):
            torch_pruning.DependencyGraph().build_dependency(model, example_inputs=images)
        for who, prune in runs.items():
            copied = copy.deepcopy(model)
            gc.collect()
            prune(copied)
            landed[who] = operations(copied, images) / full
    medians = watch.medians()
    return {"network": name, "medians": medians, "kept": landed, "ratios": ratios(medians)}


def ratios(medians: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """How many times longer torch-pruning took (its fastest way)."""
    theirs = [part for part in medians if part.startswith("torch-pruning pruning")]
    return {
        clock: {
            "analysis": round(
                medians["torch-pruning analysis"][clock] / medians["prunelab analysis"][clock], 2
            ),
            "pruning": round(
                min(medians[part][clock] for part in theirs) / medians["prunelab pruning"][clock], 2
            ),
        }
        for clock in ("wall_ms", "processor_ms")
    }


def show(row: dict[str, Any]) -> None:
    """The figures of one network."""
    print(row["network"])
    for part, found in row["medians"].items():
        print(f"    {part:38s} {found['wall_ms']:10.1f} ms wall {found['processor_ms']:10.1f} ms processor")
    for who, kept in row["kept"].items():
        print(f"    {who:38s} keeps {100 * kept:.2f} % of the operations")
    for clock, found in row["ratios"].items():
        print(
            f"    times faster ({clock[:-3]}): analysis {found['analysis']}, pruning {found['pruning']}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", help="some networks only (nothing is written)")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--steps", type=int, nargs="*", default=[20, 200], help="of torch-pruning")
    arguments = parser.parse_args()
    found = machine("torch", "timm", "torch-pruning", "prunelab")
    rows = []
    for name in arguments.only or NETWORKS:
        rows.append(compare(name, arguments.repetitions, arguments.steps))
        show(rows[-1])
    if not arguments.only:
        settings = {"repetitions": arguments.repetitions, "steps of torch-pruning": arguments.steps}
        RECORD.write_text(
            json.dumps({"machine": found, "settings": settings, "networks": rows}, indent=1) + "\n"
        )
        print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
