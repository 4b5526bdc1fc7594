"""``save`` and ``load``: a pruned network as ``model.safetensors`` and ``plan.json``. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.export.header import Header
from prunelab.export.limits import build_checked
from prunelab.export.packing import PACKED, checked_packed, packed_state, unpacked, unpacked_header
from prunelab.models.origin import Origin
from prunelab.models.state import load_state
from prunelab.records.atomic import Write, write_atomically
from prunelab.records.fields import RecordError
from prunelab.records.input_format import InputFormat
from prunelab.records.own_digest import check_digest, with_digest
from prunelab.strict_json import DuplicateKey, loads_strictly
from prunelab.structure import PruningPlan
from prunelab.structure.plan_steps import Plan, plan_from_json, steps_of
from prunelab.structure.surgery.apply import named_tensors
from prunelab.structure.surgery.substituting import apply_steps
from prunelab.structure.wrappers import uncompiled

INPUT = "prunelab_input"
SCHEMA = 2
DIGEST_OF_PAGE = "page_sha256"
WEIGHTS_FILE, PLAN_FILE = "model.safetensors", "plan.json"
LARGEST_PLAN = 2**26
"""Bytes of plan.json; the plan of a ResNet-50 has about 200 KB."""


def save(model: nn.Module, folder: str | Path) -> Path:
    """Write ``model`` into ``folder``: its weights, and a description from which ``load`` builds the network.

    ``plan.json`` holds the plan that ``prunelab.apply`` and ``prunelab.factorise`` stored on the model, the builder and
    its arguments if ``models.build`` made the model (any other network has to be passed to ``load``), the versions, the
    digest of the weights, and a digest of the description. Weights of one or two bits are stored packed. Each file is
    written atomically, the weights first.

    If the model has an attribute ``prunelab_input`` (a ``records.InputFormat``: image size, normalisation, names of the
    classes), it is stored too; the networks of runs have one.

    Args:
        model: any network whose state consists of tensors. A compiled one is saved as if it were not compiled.
        folder: is created if it does not exist.

    Returns:
        The folder.

    Raises:
        UserError: the network is wrapped (``DataParallel``) or is a TorchScript program.

    Example:
        >>> import prunelab, tempfile
        >>> from prunelab.models import build
        >>> folder = prunelab.save(build("lenet5", 10, in_chans=1), tempfile.mkdtemp())
        >>> type(prunelab.load(folder)).__name__
        'LeNet5'
    """
    folder = Path(folder)
    with uncompiled(model) as network:  # the names of tensors are those without torch.compile
        folder.mkdir(parents=True, exist_ok=True)
        write_network(network, folder, write_atomically)
    return folder


def write_network(model: nn.Module, folder: Path, write: Write) -> None:
    """``save`` into an existing ``folder``, with ``write``."""
    state, packed = packed_state(model)
    content = safetensors.torch.save(state, {"format": "pt"})
    plan: Plan = getattr(model, "prunelab_plan", None) or PruningPlan(kept={}, widths={})
    origin: Origin | None = getattr(model, "prunelab_origin", None)
    page: dict[str, Any] = {
        "schema": SCHEMA,
        "origin": None if origin is None else origin.to_dict(),
        "network": type(model).__name__,
        "plan": json.loads(plan.to_json()),
        "weights_sha256": hashlib.sha256(content).hexdigest(),
        "torch": torch.__version__,
    }
    if packed:
        page["packed"] = packed
    form: InputFormat | None = getattr(model, INPUT, None)
    if form is not None:
        page["input"] = form.to_dict()
    write(folder / WEIGHTS_FILE, content)
    write(folder / PLAN_FILE, json.dumps(with_digest(page, DIGEST_OF_PAGE)) + "\n")


def load(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Load the pruned network in ``folder`` as an ordinary ``nn.Module``.

    The files may be untrusted: nothing in them is executed, and a network is built only after its shapes
    were compared with the header of the weights file on the meta device (see ``export.limits``).

    Args:
        folder: the folder that ``save`` or a run has written.
        model: a new full network of the saved kind, for networks that ``models.build`` did not make; it is pruned in
            place. Without it the network that is named in ``plan.json`` is built: a network of timm or prunelab.

    Returns:
        The network in evaluation mode, on the CPU unless ``model`` is elsewhere. If the folder contains an input
        format, it is the attribute ``prunelab_input``, and ``classes`` are the names of the outputs (unless the network
        has another attribute of this name).

    Raises:
        UserError: a file is missing, truncated, exchanged or edited, or does not fit the network.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> plan = prunelab.analyze(network, torch.zeros(1, 3, 8, 8)).plan(kept={"0": [0, 2, 5]})
        >>> folder = prunelab.save(prunelab.apply(network, plan), "pruned")
        >>> full = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> prunelab.load(folder, model=full)[0]
        Conv2d(3, 3, kernel_size=(3, 3), stride=(1, 1))
    """
    folder = Path(folder)
    page = _page(folder / PLAN_FILE)
    content = _read(folder / WEIGHTS_FILE)
    if hashlib.sha256(content).hexdigest() != page["weights_sha256"]:
        raise UserError(
            f"{folder / WEIGHTS_FILE} is not the file with which {PLAN_FILE} was written: it was truncated, exchanged "
            "or edited. Copy both files again from the original folder."
        )
    header = Header.read(folder / WEIGHTS_FILE)
    packed = checked_packed(page.get("packed", {}), header)
    header = unpacked_header(header, packed)
    plan = plan_from_json(json.dumps(page["plan"]))
    network = build_checked(_origin(page, folder), plan, header) if model is None else model
    apply_steps(network, steps_of(plan))
    with uncompiled(network) as plain:
        header.require_fit(plain)
        _fill(plain, unpacked(safetensors.torch.load(content), packed))
        _describe(plain, page, folder / PLAN_FILE)
    if packed:
        setattr(network, PACKED, {name: each["bits"] for name, each in packed.items()})
    return network.eval()


def _describe(network: nn.Module, page: dict[str, Any], path: Path) -> None:
    """Set ``prunelab_input`` and ``classes`` of the network if the page has an input format."""
    if "input" not in page:
        return
    try:
        form = InputFormat.from_dict(page["input"])
    except RecordError as error:
        raise UserError(f"The input format in {path} is not valid: {error}.") from error
    setattr(network, INPUT, form)
    if not hasattr(network, "classes"):
        network.classes = form.classes  # type: ignore[assignment]  # for users; a module takes any attribute


def _fill(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy ``weights``, which fit, into ``network``, and give it their number formats (float16, bfloat16, ...)."""
    formats = {value.dtype for value in weights.values() if value.is_floating_point()}
    if len(formats) == 1:
        network.to(formats.pop())  # also buffers that are never saved
    tensors = named_tensors(network)
    for name, value in weights.items():
        if name in tensors and tensors[name].dtype != value.dtype:
            tensors[name].data = tensors[name].data.to(value.dtype)
    load_state(network, weights, strict=False)  # shared tensors have further names


def _page(path: Path) -> dict[str, Any]:
    """The content of plan.json. Raises UserError if it is not what ``save`` wrote."""
    content = _read(path, LARGEST_PLAN)
    try:
        page = loads_strictly(content.decode())
    except DuplicateKey as error:
        raise UserError(f"{path} was edited after it was written: {error}.") from error
    except ValueError as error:
        raise UserError(
            f"{path} is not readable JSON ({error}); copy it again from the original folder."
        ) from error
    needed = {"schema", "origin", "network", "plan", "weights_sha256", "torch", DIGEST_OF_PAGE}
    known = (
        isinstance(page, dict) and page.get("schema") == SCHEMA and set(page) - {"input", "packed"} == needed
    )
    if not known:
        raise UserError(f"{path} does not describe a network saved by prunelab (schema {SCHEMA}).")
    try:
        check_digest(page, DIGEST_OF_PAGE)
    except RecordError as error:
        raise UserError(
            f"{path} was edited after it was written; copy it again from the original folder."
        ) from error
    return page


def _origin(page: dict[str, Any], folder: Path) -> Origin:
    """The builder and its arguments. Raises UserError if there are none or they are not allowed."""
    if page["origin"] is None:
        raise UserError(
            f"{folder} holds a {page['network']} that prunelab did not build: pass a new full network of that kind, "
            "prunelab.load(folder, model=...)."
        )
    return Origin.from_dict(page["origin"])


def _read(path: Path, largest: int | None = None) -> bytes:
    try:
        if largest is not None and path.stat().st_size > largest:
            raise UserError(f"{path} is larger than {largest} bytes: it was not written by prunelab.")
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}. A saved network consists of {WEIGHTS_FILE} and {PLAN_FILE}."
        ) from error
