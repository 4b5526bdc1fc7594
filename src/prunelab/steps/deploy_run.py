"""The deployment/ folder of a finished run, or of a network that a user saved."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prunelab.data.module import ImageData
from prunelab.errors import UserError
from prunelab.export import load
from prunelab.export.checkpoint import INPUT
from prunelab.export.deploy import Deploy
from prunelab.models.state import load_state
from prunelab.records import Record
from prunelab.records.claim import claimed
from prunelab.records.deployment import DEPLOYMENT_FOLDER, Deployment
from prunelab.records.folder import RECORD_FILE
from prunelab.records.input_format import InputFormat
from prunelab.records.whole_folder import write_folder
from prunelab.report.stages import stages_of
from prunelab.steps.baseline_store import DamagedBaseline
from prunelab.steps.deployed_files import Batches, DeploymentImages
from prunelab.steps.deployment import SECONDS, Full, make_deployment
from prunelab.steps.setup import Setup

log = logging.getLogger(__name__)

VALIDATION_IMAGES = 512
"""Held-out images by which a variant of int8 is chosen."""


def deploy_run(folder: Path, config: Mapping[str, Any], settings: Deploy, key: str) -> Deployment:
    """Export the network of a finished run into its folder ``deployment``, which replaces an earlier one.

    Args:
        folder: of the run.
        config: its resolved configuration.
        key: its run key.

    Raises:
        UserError: a package is missing, the images are not there, or the network cannot be exported.
    """
    settings.require_packages()
    setup = Setup.of(config)
    data = setup.task.data
    data.prepare_data()
    data.setup()
    network = load(folder)
    form: InputFormat = getattr(network, INPUT, None) or data.input_format
    batches = setup.task.machine.batches  # of a trial run
    images = images_of(data, settings, batches)
    seconds = SECONDS if batches is None else 0.0
    deployment, contents = make_deployment(network, form, settings, images, _full(setup), key, seconds)
    _write(folder, contents)
    record = Record.from_json((folder / RECORD_FILE).read_text(encoding="utf-8"))
    setup.logger.deployed(folder, config, stages_of(record, deployment))
    return deployment


def deploy(
    network: nn.Module,
    folder: str | Path,
    settings: Deploy,
    images: Iterable[tuple[Tensor, Tensor | None]],
    calibration: Iterable[Tensor] = (),
    form: InputFormat | None = None,
) -> Deployment:
    """Export any pruned network into ``folder/deployment``: files for other runtimes, checked on ``images``.

    Args:
        network: images (N, C, H, W) -> logits (N, classes).
        folder: is created if it does not exist; an earlier ``deployment`` in it is replaced as a whole.
        settings: format, precision and limits.
        images: batches of (normalised held-out images, classes or None), on which files and network are compared.
        calibration: for int8: batches of other normalised images, from which the ranges of activations are measured.
        form: image size, normalisation and classes; by default ``network.prunelab_input``, set by ``prunelab.load``.

    Returns:
        What was made, as in ``deployment.json``.

    Raises:
        UserError: a package or the input format is missing, or the network cannot be exported or computes something
            else in the runtime.

    Example:
        >>> from prunelab.records import InputFormat
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> form = InputFormat((3, 8, 8), (0.5,) * 3, (0.5,) * 3, 8, True, ("cat", "dog"))
        >>> held_out = [(torch.randn(6, 3, 8, 8), None)]
        >>> prunelab.deploy(network, ".", prunelab.Deploy("torchscript"), held_out, form=form).shipped
        'model.pt'
    """
    form = require_form(form or getattr(network, INPUT, None))
    test, training = [*images], [*calibration]
    # The range of int8 weights is chosen without the images of the check.
    sources = DeploymentImages(lambda: training, lambda: [(each, None) for each in training], lambda: test)
    deployment, contents = make_deployment(network, form, settings, sources)
    Path(folder).mkdir(parents=True, exist_ok=True)
    _write(Path(folder), contents)
    return deployment


def require_form(form: InputFormat | None) -> InputFormat:
    """``form``. Raises UserError if it is None."""
    if form is None:
        raise UserError(
            "The image size, normalisation and classes of the network are not known. Set network.prunelab_input = "
            "prunelab.records.InputFormat(...) before prunelab.save, or pass form= to prunelab.deploy."
        )
    return form


def _write(folder: Path, contents: Mapping[str, str | bytes]) -> None:
    with claimed(folder, f"the deployment of {folder}") as claim:
        write_folder(folder / DEPLOYMENT_FOLDER, contents, claim.check)


def images_of(data: ImageData, settings: Deploy, batches: int | None) -> DeploymentImages:
    """The images of a data set; with a limit of ``batches`` for each use."""

    def test() -> Batches:
        return islice(data.some_test_images(settings.test_images or len(data.test)), batches)

    def calibration() -> Iterator[Tensor]:
        loader = data.calibration_dataloader(settings.calibration_images)
        return (images for images, _ in islice(loader, batches))

    return DeploymentImages(
        calibration, lambda: islice(data.validation_dataloader(VALIDATION_IMAGES), batches), test
    )


def _full(setup: Setup) -> Full | None:
    """The full network from the store of baselines; None, with a message, if it is not there any more."""
    store, key = setup.store, setup.baseline_key
    try:
        baseline = store.load(key) if store.has(key) else None
    except DamagedBaseline as error:
        log.warning("%s", error)
        baseline = None
    if baseline is None:
        log.warning(
            "The full network is not in %s: the stages of the pruned network are shown without it.",
            store.root,
        )
        return None
    network = setup.task.network()
    load_state(network, baseline.weights)
    return Full(network, baseline.accuracy)
