"""``prunelab-deploy``: files for other runtimes, from a finished run or from a network that a user saved."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from prunelab.cli.again import changed, recorded
from prunelab.cli.deployment import SETTINGS, described, stored_precision
from prunelab.cli.ending import TRACEBACK_FLAG, exit_code, take_traceback_flag
from prunelab.cli.trust import TARGET, TRUST_FLAG, require_trusted
from prunelab.errors import UserError
from prunelab.records.deployment import Deployment
from prunelab.records.folder import RECORD_FILE

if TYPE_CHECKING:
    from prunelab.export import Deploy

PROGRAM = "prunelab-deploy"
PLAN_FILE = "plan.json"
FORMATS = {"onnxruntime": "onnx", "openvino": "openvino", "torch.export": "pt2", "torchscript": "torchscript"}
GROUP = "deploy."
CHECKED = 1000
"""Of a folder given with --images, at most this many images are used for the check."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = take_traceback_flag(list(sys.argv[1:] if arguments is None else arguments))
    options = _parser().parse_intermixed_args(words)
    return exit_code(PROGRAM, lambda: _deploy(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Export the network of a finished run, or one that prunelab.save has written, into "
        "FOLDER/deployment: the model file, predict.py, and deployment.json with sizes, accuracies and times of every "
        "stage. The file is compared with the network in PyTorch on held-out images. If a float32 file computes "
        "something else, nothing is written.",
        epilog=f"Example: {PROGRAM} outputs/runs/0a1b2c3d4e5f --runtime onnxruntime --precision int8",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of a run, or of prunelab.save")
    parser.add_argument("--runtime", choices=[*FORMATS], default="onnxruntime", help="default: onnxruntime")
    parser.add_argument(
        "--precision",
        metavar="P",
        help="fp32, fp16, bf16 or int8; default: that of the run if the runtime has it, else fp32",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="for a network of prunelab.save: real images, in train/ for calibration and val/ for the check, or all in "
        "one folder",
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings of the deployment, such as deploy.reduce_range=true, or of the recorded run, such as "
        "data.root=FOLDER",
    )
    parser.add_argument(
        TRUST_FLAG,
        action="append",
        default=[],
        metavar="MODULE",
        help="a Python module that the record may import; can be given several times",
    )
    parser.add_argument(TRACEBACK_FLAG, action="store_true", help="show the traceback of an error")
    return parser


def _deploy(options: argparse.Namespace) -> int:
    folder: Path = options.folder
    own = [word for word in options.settings if word.startswith(GROUP)]
    others = [word for word in options.settings if not word.startswith(GROUP)]
    if not (folder / RECORD_FILE).is_file() and not (folder / PLAN_FILE).is_file():
        raise UserError(
            f"{folder} is no folder of a finished run ({RECORD_FILE}) and none of prunelab.save ({PLAN_FILE})."
        )
    from prunelab.cli.run import console_messages
    from prunelab.steps.setup import made

    given = {
        **_defaults(folder, FORMATS[options.runtime]),
        "format": FORMATS[options.runtime],
        **_values(own),
    }
    if options.precision is not None:
        given["precision"] = options.precision
    settings: Deploy = made({TARGET: SETTINGS, **given}, "deploy")
    settings.require_packages()
    with console_messages():
        if (folder / RECORD_FILE).is_file():
            deployment = _of_run(folder, settings, others, options.trust, options.images)
        else:
            deployment = _of_saved(folder, settings, others, options.images)
    print("\n".join(described(deployment, folder)))
    return 0


def _defaults(folder: Path, form: str) -> dict[str, Any]:
    """The settings of a deployment that follow from the precision of a run, if the format ``form`` has it."""
    if not (folder / RECORD_FILE).is_file():
        return {}
    precision = recorded(folder).config.get("precision") or {}
    stored = stored_precision(str(precision.get("name")), form)
    if stored == "fp32":
        return {}
    shared = ("calibration_images", "reduce_range", "agreement")
    return {"precision": stored, **{name: precision[name] for name in shared if name in precision}}


def _values(words: Sequence[str]) -> dict[str, Any]:
    """The settings in words such as ``deploy.opset=18``."""
    if wrong := [word for word in words if "=" not in word]:
        raise UserError(f"{wrong[0]!r} is not understood. Write key=value, as in deploy.reduce_range=true.")
    plain = OmegaConf.to_container(OmegaConf.from_dotlist([word.removeprefix(GROUP) for word in words]))
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


def _of_run(
    folder: Path, settings: Deploy, words: Sequence[str], trusted: Sequence[str], images: Path | None
) -> Deployment:
    from prunelab.steps.deploy_run import deploy_run

    record = recorded(folder)
    if images is not None:
        raise UserError(
            f"{folder} is a run, whose images are those of its data set. Leave --images out, or set data.root=FOLDER."
        )
    require_trusted(record.config, trusted)
    config = changed(_on_cpu(record.config, folder), words)
    return deploy_run(folder, config, settings, record.key)


def _on_cpu(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration of a run for one process on this machine, with the baselines beside the study."""
    trainer = {**config["trainer"], "accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"}
    known = {name: value for name, value in trainer.items() if name in config["trainer"]}
    return {**config, "trainer": known, "outputs": str(folder.resolve().parents[1])}


def _of_saved(folder: Path, settings: Deploy, words: Sequence[str], images: Path | None) -> Deployment:
    from prunelab.data.loose_images import loose_images
    from prunelab.export import load
    from prunelab.export.checkpoint import INPUT
    from prunelab.steps.deploy_run import deploy, require_form

    if words:
        raise UserError(f"{words[0]!r} is a setting of a run, and {folder} holds a network without a record.")
    if images is None:
        raise UserError(
            f"{folder} holds a network without a record, so real images have to be given: --images FOLDER. The "
            "exported file is compared with the network on them, and int8 is calibrated with them."
        )
    network = load(folder)
    form = require_form(getattr(network, INPUT, None))
    training, held_out = loose_images(
        images, form, settings.calibration_images, settings.test_images or CHECKED
    )
    return deploy(network, folder, settings, held_out, (batch for batch, _ in training), form)


if __name__ == "__main__":
    sys.exit(main())
