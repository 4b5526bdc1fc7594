"""torch-pruning's criteria on the same network, images and FLOPs: right after pruning, and with normalisation
re-estimated.

    pip install 'prunelab[benchmarks]'
    python experiments/post_training/peer.py --images IMAGENET_SAMPLES --weights FOLDER

On EfficientNet-Lite0: torch-pruning 1.6.1 does not support the zero-padded shortcuts of the CIFAR ResNets (the stored
indices of the padding are not adapted). Each criterion prunes globally in steps (the gradients of Taylor are computed
again at every step, with labels), until the FLOPs that PyTorch counts are within the budget. ``--criteria`` chooses
some of them; the other options are those of ``study.py``. Appends to records/lite0.jsonl.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch_pruning
from study import KEEPS, RECORDS, accuracy, network
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from data import load_images
from prunelab.methods.search.batch_norm import adapt_batch_norm

NETWORK = "lite0"
STEPS = 400
CRITERIA: Mapping[str, Callable[[], Any]] = {
    "tp group l2": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=2),
    "tp fpgm": lambda: torch_pruning.importance.FPGMImportance(),
    "tp group taylor": lambda: torch_pruning.importance.GroupTaylorImportance(),
}


def operations(model: nn.Module, image: Tensor) -> int:
    """FLOPs of one pass, by PyTorch's own counter."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    return int(counter.get_total_flops())


def pruned(
    model: nn.Module, name: str, keeps: Sequence[float], batches: list[tuple[Tensor, Tensor]]
) -> Iterator[tuple[float, nn.Module]]:
    """For each of ``keeps``, from large to small, a copy of the network with at most that fraction of its FLOPs."""
    model = copy.deepcopy(model)
    image = batches[0][0][:1]
    full = operations(model, image)
    classifier = [module for module in model.modules() if isinstance(module, nn.Linear)]
    pruner = torch_pruning.pruner.BasePruner(
        model,
        image,
        importance=CRITERIA[name](),
        global_pruning=True,
        pruning_ratio=1.0,
        max_pruning_ratio=0.9,
        iterative_steps=STEPS,
        ignored_layers=classifier,
    )
    left = sorted(keeps, reverse=True)
    for _ in range(STEPS):
        if "taylor" in name:
            model.zero_grad()
            for images, classes in batches:
                (functional.cross_entropy(model(images), classes) * len(images)).backward()
        pruner.step()
        while left and operations(model, image) <= left[0] * full:
            yield left.pop(0), copy.deepcopy(model).eval()
        if not left:
            return
    raise RuntimeError(f"{name} cannot reach {left[0]} of the FLOPs.")


def main() -> None:
    """Read the command line and run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--criteria", nargs="+", choices=CRITERIA, default=list(CRITERIA))
    parser.add_argument("--keeps", nargs="+", type=float, default=None)
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--evaluate", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # float32 on a GPU as on a CPU
    device = torch.device(options.device)
    model = network(NETWORK, options.weights).to(device, memory_format=torch.channels_last)
    images = load_images(NETWORK, options.images, options.evaluate).to(device)
    calibration, classes = images.calibration(options.count, options.seed)
    calibration = calibration.contiguous(memory_format=torch.channels_last)
    batches = list(zip(calibration.split(25), classes.split(25), strict=True))
    full = operations(model, calibration[:1])
    with (RECORDS / f"{NETWORK}.jsonl").open("a") as file:
        for name in options.criteria:
            start = time.process_time()
            for keep, found in pruned(model, name, options.keeps or KEEPS[NETWORK], batches):
                record = {
                    "network": NETWORK,
                    "images": len(calibration),
                    "evaluated": len(images.evaluation[1]),
                    "method": name,
                    "allocation": None,
                    "keep": keep,
                    "seed": options.seed,
                    "score_s": round(time.process_time() - start, 1),
                    "flops": operations(found, calibration[:1]) / full,
                    "torch_pruning": torch_pruning.__version__,
                    "device": str(device),
                }
                for column in ("cut", "bn"):
                    if column == "bn":
                        adapt_batch_norm(found, [images for images, _ in batches])
                    top1 = accuracy(found, *images.evaluation)
                    file.write(json.dumps({**record, "column": column, "top1": top1}) + "\n")
                    file.flush()


if __name__ == "__main__":
    main()
