"""Prune one network of every timm family: what can be removed, what is frozen and why, and is masked == pruned?

For each family (a module of timm.models) the smallest member with a 3-channel input of at most 300 pixels is taken
(``--member 1``: the second smallest), its BatchNorm statistics and affine parameters are randomised so that zeroing a
channel matters, 30 % of every group's channels are removed, and the pruned network is compared with the masked one.

    python experiments/benchmarks/families.py                     # all families, smallest members
    python experiments/benchmarks/families.py --member 1          # second smallest, up to 60 M parameters
    python experiments/benchmarks/families.py --only resnet vgg   # some families

Writes experiments/benchmarks/records/families_<member>.json and prints a row for each network.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.models import _registry as registry
from torch import nn

import prunelab

RECORDS = Path(__file__).parent / "records"
LARGEST_INPUT = 300
LARGEST_MEMBER = 60_000_000


def families() -> dict[str, list[tuple[int, str, tuple[int, ...]]]]:
    """Family -> (parameters, name, input size) of its members, smallest first (built on the meta device)."""
    found: dict[str, list[tuple[int, str, tuple[int, ...]]]] = defaultdict(list)
    for name in timm.list_models():
        config = timm.get_pretrained_cfg(name)
        size = tuple(config.input_size) if config else (3, 224, 224)
        if size[0] != 3 or max(size[1:]) > LARGEST_INPUT:
            continue
        with torch.device("meta"):
            model = timm.create_model(name)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        found[registry._model_to_module[name]].append((parameters, name, size))
    return {family: sorted(members) for family, members in sorted(found.items())}


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give BatchNorm random statistics and affine parameters, so that a zeroed channel matters."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
            if module.weight is not None:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(0, 0.3, generator=generator)
    return model


def enlivened(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Let BatchNorm take its statistics from ``images``, so that what happens near the input reaches the output.

    In a deep untrained network with other statistics a wrong channel would change the output by 1e-9 only.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        model(torch.cat([images, torch.randn_like(images)]))
    return model.eval()


def prune(family: str, name: str, size: tuple[int, ...]) -> dict[str, Any]:
    """Remove 30 % of every group and compare; the exact groups alone first, then all."""
    torch.manual_seed(0)
    images = torch.randn(2, *size)
    model = enlivened(randomise(timm.create_model(name).eval()), images)
    started = time.perf_counter()
    structure = prunelab.analyze(model, images[:1])
    seconds = time.perf_counter() - started
    generator = np.random.default_rng(0)
    kept = {
        group.name: sorted(
            generator.choice(group.size, max(1, round(0.7 * group.size)), replace=False).tolist()
        )
        for group in structure.groups
    }
    exact = {group.name for group in structure.groups if group.exact}
    plan = structure.plan(kept)
    error_exact = compare(model, structure.plan({name: kept[name] for name in exact}), images)
    error = compare(model, plan, images) if len(exact) < len(kept) else error_exact
    return {
        "family": family,
        "model": name,
        "filter_groups": sum(group.level == "filter" for group in structure.groups),
        "stage_groups": sum(group.level == "stage" for group in structure.groups),
        "blocks": len(structure.blocks),
        "frozen": dict(Counter(group.frozen for group in structure.frozen)),
        "inexact": dict(Counter(group.inexact for group in structure.groups if not group.exact)),
        "flops_kept": structure.cost.flops(plan) / structure.cost.flops(),
        "params_kept": structure.cost.params(plan) / structure.cost.params(),
        "error_exact_groups": error_exact,
        "error_all_groups": error,
        "analyze_seconds": seconds,
    }


def compare(model: nn.Module, plan: prunelab.PruningPlan, images: torch.Tensor) -> float:
    """masked against pruned; also makes sure that the cost model counts the pruned network's parameters right."""
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    return prunelab.check(model, pruned, plan, images)


def show(row: dict[str, Any]) -> None:
    """One line per network."""
    if "error" in row:
        print(f"{row['family']:26s} {row['model']:34s} FAILED {row['error']}", flush=True)
        return
    print(
        f"{row['family']:26s} {row['model']:34s} {row['filter_groups']:4d} {row['stage_groups']:4d} {row['blocks']:4d} "
        f"{sum(row['frozen'].values()):4d} {sum(row['inexact'].values()):4d} "
        f"{row['flops_kept']:6.3f} {row['params_kept']:6.3f} "
        f"{row['error_exact_groups']:9.1e} {row['error_all_groups']:9.1e} {row['analyze_seconds']:6.2f}  "
        + "; ".join(f"{count} x {reason}" for reason, count in row["frozen"].items()),
        flush=True,
    )


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts that matter."""
    ran = [row for row in rows if "error" not in row]
    return {
        "networks": len(rows),
        "ran": len(ran),
        "exact_as_a_whole": sum(not row["inexact"] and row["error_all_groups"] < 1e-4 for row in ran),
        "exact_groups_exact": sum(row["error_exact_groups"] < 1e-4 for row in ran),
        "lose_a_fifth_of_parameters": sum(row["params_kept"] <= 0.8 for row in ran),
        "median_analyze_seconds": float(np.median([row["analyze_seconds"] for row in ran])),
        "versions": {
            "timm": timm.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--member", type=int, default=0, help="0: the smallest of each family; 1: the second smallest"
    )
    parser.add_argument("--only", nargs="*", help="some families only (nothing is written)")
    arguments = parser.parse_args()
    print(
        f"{'family':26s} {'model':34s} {'filt':>4s} {'stag':>4s} {'blck':>4s} {'frzn':>4s} {'inex':>4s} {'flops':>6s} "
        f"{'params':>6s} {'err exact':>9s} {'err all':>9s} {'sec':>6s}  frozen by"
    )
    rows: list[dict[str, Any]] = []
    for family, members in families().items():
        if arguments.only and family not in arguments.only:
            continue
        if len(members) <= arguments.member or (
            arguments.member and members[arguments.member][0] > LARGEST_MEMBER
        ):
            continue
        _, name, size = members[arguments.member]
        try:
            rows.append(prune(family, name, size))
        except Exception as error:  # the benchmark's very question: which families fail, and how
            first = (str(error).splitlines() or [""])[0]
            rows.append({"family": family, "model": name, "error": f"{type(error).__name__}: {first[:200]}"})
        show(rows[-1])
    total = summary(rows)
    print(json.dumps(total, indent=1))
    if not arguments.only:
        RECORDS.mkdir(exist_ok=True)
        path = RECORDS / f"families_{arguments.member}.json"
        path.write_text(json.dumps({"summary": total, "networks": rows}, indent=1) + "\n")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
