"""prunelab and torch-pruning: how long does each take, and how close to the target are the results?

(a) analysis: finding the channels that can be pruned (``prunelab.analyze``; torch-pruning's ``DependencyGraph`` and its
    list of all groups). The analysis of prunelab also runs a pruned network to prove the groups, and makes the cost
    model.
(b) pruning: from the trained network to the pruned network at 50 % of the FLOPs, L2 norm, one global ranking; the time
    includes analysis, scores, counting and surgery. The setting of torch-pruning is a fraction of channels, not of
    operations, so it prunes in steps and counts after each step until half is removed. Three ways are measured:

    - 100 steps from the full network to nothing, as in its own script for ImageNet (``reproduce/main_imagenet.py``).
      Measured once, because it takes long.
    - 20 steps: faster, and further from the target.
    - one step with the fraction of channels that leads to half of the operations. The fraction is found before the
      measurement, by bisection on copies, to 0.5 points. This is a lower bound of the time of torch-pruning.

The two libraries are measured alternately in one process, with the same number of threads. Networks and copies are made
outside the measured time. The kept operations are counted on the pruned networks with PyTorch's own counter.

    pip install "prunelab[benchmarks]"
    OMP_NUM_THREADS=1 python experiments/benchmarks/versus_torch_pruning.py
    OMP_NUM_THREADS=1 python experiments/benchmarks/versus_torch_pruning.py --networks vgg16_bn --repetitions 1

Writes experiments/benchmarks/records/versus_torch_pruning.json after each network and keeps its other entries;
``--resume`` skips the networks that it contains.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import time
from pathlib import Path
from typing import Any

import timm
import torch
import torch_pruning
from timing import Stopwatch, floor, machine
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from prunelab.methods import Budget, L2Norm, PruningContext, allocate
from prunelab.records.atomic import write_atomically
from prunelab.structure import analyze, apply

NETWORKS = ("resnet50", "resnet152", "densenet121", "vgg16_bn", "mobilenetv2_100", "efficientnet_b0")
RECORD = Path(__file__).parent / "records" / "versus_torch_pruning.json"
KEEP = 0.5
RECOMMENDED, COARSE = 100, 20


def with_prunelab(model: nn.Module, images: Tensor, watch: Stopwatch) -> None:
    """Prune ``model`` in place with prunelab; its stages are timed one by one too."""
    budget = Budget(flops=KEEP)
    with watch.measure("prunelab"):
        with watch.measure("prunelab: analyze"):
            graph = analyze(model, images)
        with watch.measure("prunelab: score"):
            scores = L2Norm().score(PruningContext(model, graph, budget))
        with watch.measure("prunelab: allocate"):
            plan = allocate(graph, scores, budget)
        with watch.measure("prunelab: apply"):
            apply(model, plan)


def peer(model: nn.Module, images: Tensor, ratio: float, steps: int) -> Any:
    """torch-pruning's pruner as in its README; the classifier is not pruned."""
    classifier = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]
    return torch_pruning.pruner.BasePruner(
        model,
        images,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=ratio,
        iterative_steps=steps,
        ignored_layers=classifier,
    )


def in_steps(model: nn.Module, images: Tensor, steps: int) -> None:
    """Prune ``model`` in place with torch-pruning until half of the operations are removed."""
    full, _ = torch_pruning.utils.count_ops_and_params(model, images)
    pruner = peer(model, images, 1.0, steps)
    left = full
    while left > KEEP * full and pruner.current_step < pruner.iterative_steps:
        pruner.step()
        left, _ = torch_pruning.utils.count_ops_and_params(model, images)


def in_one_step(model: nn.Module, images: Tensor, ratio: float) -> None:
    """Prune ``model`` in place with torch-pruning by a fraction of channels; counted before and after."""
    torch_pruning.utils.count_ops_and_params(model, images)
    peer(model, images, ratio, 1).step()
    torch_pruning.utils.count_ops_and_params(model, images)


def known_ratio(model: nn.Module, images: Tensor, full: int) -> float:
    """The fraction of channels for ``in_one_step``, found on copies."""
    low, high = 0.0, 1.0
    for _ in range(10):
        ratio = (low + high) / 2
        copied = copy.deepcopy(model)
        peer(copied, images, ratio, 1).step()
        kept = operations(copied, images) / full
        if abs(kept - KEEP) < 0.005:
            break
        low, high = (ratio, high) if kept > KEEP else (low, ratio)
    return ratio


def operations(model: nn.Module, images: Tensor) -> int:
    """Multiplications and additions of one pass, by PyTorch's own counter, which is used for both."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    return int(counter.get_total_flops())


def compare(name: str, repetitions: int) -> dict[str, Any]:
    """Both libraries on one network."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    images = torch.zeros(1, 3, 224, 224)
    full = operations(model, images)
    watch, kept = Stopwatch(), {}
    forward = floor(lambda: timm.create_model(name), images)
    ratio = known_ratio(model, images, full)
    ways = {
        "prunelab": lambda copied: with_prunelab(copied, images, watch),
        f"torch-pruning, {RECOMMENDED} steps": lambda copied: in_steps(copied, images, RECOMMENDED),
        f"torch-pruning, {COARSE} steps": lambda copied: in_steps(copied, images, COARSE),
        "torch-pruning, known ratio": lambda copied: in_one_step(copied, images, ratio),
    }
    for repetition in range(repetitions):
        with watch.measure("floor: a pass on the meta device"):
            forward()
        with watch.measure("prunelab analysis"):
            analyze(model, images)
        with watch.measure("torch-pruning analysis"):
            list(torch_pruning.DependencyGraph().build_dependency(model, images).get_all_groups())
        for way, prune in ways.items():
            if way.endswith(f"{RECOMMENDED} steps") and repetition > 0:
                continue
            copied = copy.deepcopy(model)
            gc.collect()
            if way == "prunelab":  # its parts are measured inside
                prune(copied)
            else:
                with watch.measure(way):
                    prune(copied)
            kept[way] = round(operations(copied, images) / full, 5)
    medians = watch.medians()
    return {
        "medians": medians,
        "kept": kept,
        "times_faster": {clock: faster(medians, clock) for clock in ("wall_ms", "processor_ms")},
    }


def faster(medians: dict[str, dict[str, float]], clock: str) -> dict[str, float]:
    """How many times longer torch-pruning took than prunelab, for the analysis and each of its ways to prune."""
    ours = {"analysis": "prunelab analysis"}
    return {
        part.removeprefix("torch-pruning").strip(", "): round(
            found[clock] / medians[ours.get(part.partition(" ")[2], "prunelab")][clock], 2
        )
        for part, found in medians.items()
        if part.startswith("torch-pruning")
    }


def show(name: str, row: dict[str, Any]) -> None:
    """Print the results of one network."""
    print(name)
    for part, found in row["medians"].items():
        print(f"    {part:34s} {found['wall_ms']:10.1f} ms wall {found['processor_ms']:10.1f} ms processor")
    for way, kept in row["kept"].items():
        print(f"    {way:34s} keeps {100 * kept:.2f} % of the operations")
    for clock, found in row["times_faster"].items():
        ratios = ", ".join(f"{ratio} ({part})" for part, ratio in found.items())
        print(f"    times faster, {clock[:-3]}: {ratios}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="names of timm")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--resume", action="store_true", help="skip the networks that the record holds")
    arguments = parser.parse_args()
    rows: dict[str, Any] = json.loads(RECORD.read_text())["networks"] if RECORD.exists() else {}
    for name in arguments.networks:
        if arguments.resume and name in rows:
            continue
        started = time.perf_counter()
        found = machine("torch", "timm", "torch-pruning", "prunelab")
        rows[name] = compare(name, arguments.repetitions)
        rows[name] |= {"repetitions": arguments.repetitions, "machine": found}
        show(name, rows[name])
        print(f"    measured in {time.perf_counter() - started:.0f} s", flush=True)
        write_atomically(RECORD, json.dumps({"keep": KEEP, "networks": rows}, indent=1) + "\n")
    print(f"wrote {RECORD}")


if __name__ == "__main__":
    main()
