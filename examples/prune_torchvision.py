"""Prune a torchvision network to a fraction of its FLOPs, and show that only the removed channels changed.

python examples/prune_torchvision.py --network resnet18 --flops 0.5
"""

from __future__ import annotations

import argparse

import torch
import torchvision

import prunelab


def main() -> None:
    """Prune the network on the command line and print its cost before and after."""
    parser = argparse.ArgumentParser(description="Prune a torchvision network to a fraction of its FLOPs.")
    parser.add_argument("--network", default="resnet18", help="a name of torchvision.models")
    parser.add_argument("--flops", type=float, default=0.5, help="fraction of the FLOPs to keep")
    parser.add_argument("--image-size", type=int, default=64, help="side of the images in pixels")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    full = torchvision.models.get_model(
        arguments.network, weights=None, num_classes=10
    )  # or weights="DEFAULT"
    model = torchvision.models.get_model(arguments.network, weights=None, num_classes=10)
    model.load_state_dict(full.state_dict())
    images = torch.randn(4, 3, arguments.image_size, arguments.image_size)

    # Here scores are computed only from weights. A criterion that reads activations needs batches of images in
    # context().
    method = prunelab.ImportanceMethod(prunelab.FPGM(), prunelab.Budget(flops=arguments.flops))
    context = method.context(model, images)
    plan = method.decide(context)

    cost = context.graph.cost
    print(
        f"FLOPs       {cost.flops():>14,} -> {cost.flops(plan):>14,}  ({cost.flops(plan) / cost.flops():.1%})"
    )
    print(
        f"parameters  {cost.params():>14,} -> {cost.params(plan):>14,}  ({cost.params(plan) / cost.params():.1%})"
    )
    for name, (before, after) in plan.widths.items():
        print(f"  {name:<24} {before:>5} -> {after:>5} channels")

    prunelab.apply(model, plan)
    print(f"masked and pruned network differ by {prunelab.check(full, model, plan, images):.1e} (relative)")


if __name__ == "__main__":
    main()
