"""Save a pruned network, load it again, and export it for use without prunelab.

    python examples/load_and_export.py --folder pruned

The folder holds model.safetensors and plan.json; both are plain data, and loading them runs no code of the folder.
pruned.pt2 opens with torch.export.load where prunelab is not installed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torchvision

import prunelab


def main() -> None:
    """Prune, save, load, export, and compare the outputs of the three."""
    parser = argparse.ArgumentParser(description="Save, load and export a pruned network.")
    parser.add_argument("--folder", type=Path, default=Path("pruned"), help="folder of the files")
    folder = parser.parse_args().folder

    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    model = torchvision.models.mobilenet_v2(num_classes=10)
    method = prunelab.ImportanceMethod(prunelab.L2Norm(), prunelab.Budget(params=0.6))
    prunelab.apply(model, method.decide(method.context(model, images)))
    prunelab.save(model, folder)

    # A network that prunelab did not build is passed as a new full network of the same kind.
    # The folder of a run needs none: prunelab.load("outputs/runs/<key>").
    loaded = prunelab.load(folder, model=torchvision.models.mobilenet_v2(num_classes=10))

    program = torch.export.export(loaded, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, folder / "pruned.pt2")
    exported = torch.export.load(folder / "pruned.pt2").module()

    with torch.no_grad():
        expected = model.eval()(images)
        torch.testing.assert_close(loaded(images), expected)
        torch.testing.assert_close(exported(images), expected)
    for path in sorted(folder.iterdir()):
        print(f"{path}  {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
