"""``save`` and ``load``: a pruned network as ``model.safetensors`` and ``plan.json``. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.models.origin import Origin
from prunelab.records.atomic import write_atomically
from prunelab.structure import PruningPlan, apply
from prunelab.structure.surgery.apply import named_tensors

SCHEMA = 2
WEIGHTS_FILE, PLAN_FILE = "model.safetensors", "plan.json"


def save(model: nn.Module, folder: str | Path) -> Path:
    """Write ``model`` into ``folder``: its weights, and how to build a network that they fit.

    ``plan.json`` holds the plan that ``prunelab.apply`` left on the model, the model's origin if ``models.build``
    made it (any other network is given to ``load`` again), the versions, the digest of the weights and one of all this.
    Each file appears whole or not at all, the weights first. Returns the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = safetensors.torch.save(_unshared(model), {"format": "pt"})
    plan: PruningPlan = getattr(model, "prunelab_plan", None) or PruningPlan(kept={}, widths={})
    origin: Origin | None = getattr(model, "prunelab_origin", None)
    page: dict[str, Any] = {
        "schema": SCHEMA,
        "origin": None if origin is None else origin.to_dict(),
        "network": type(model).__name__,
        "plan": json.loads(plan.to_json()),
        "weights_sha256": hashlib.sha256(content).hexdigest(),
        "torch": torch.__version__,
    }
    page["page_sha256"] = _digest(page)
    write_atomically(folder / WEIGHTS_FILE, content)
    write_atomically(folder / PLAN_FILE, json.dumps(page) + "\n")
    return folder


def load(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The pruned network in ``folder``, an ordinary ``nn.Module`` in evaluation mode.

    ``model``: a fresh full network of the saved kind, for networks that ``models.build`` did not make; it is pruned in
    place. Without it the network is built from the origin in ``plan.json``, which can only name timm's and
    prunelab's own networks.

    Raises:
        UserError: a file is missing, truncated, exchanged or edited, or does not fit the network.
    """
    folder = Path(folder)
    page = _page(folder / PLAN_FILE)
    content = _read(folder / WEIGHTS_FILE)
    if hashlib.sha256(content).hexdigest() != page["weights_sha256"]:
        raise UserError(
            f"{folder / WEIGHTS_FILE} is not the file that {PLAN_FILE} was written with: it was truncated, exchanged "
            "or edited. Copy both files again from where they were made."
        )
    try:
        weights = safetensors.torch.load(content)
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS_FILE} is not a safetensors file: {error}.") from error
    plan = PruningPlan.from_json(json.dumps(page["plan"]))
    network = _built(page, folder) if model is None else model
    apply(network, plan)
    _fill(network, weights, folder / WEIGHTS_FILE)
    return network.eval()


def _unshared(model: nn.Module) -> dict[str, Tensor]:
    """The state of ``model`` with every shared tensor once, contiguous."""
    seen: set[int] = set()
    state: dict[str, Tensor] = {}
    tensors = named_tensors(model)
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"{name} of the network's state is not a tensor ({type(value).__name__}); it cannot be saved."
            )
        key = id(tensors.get(name, value))
        if key not in seen:
            seen.add(key)
            state[name] = value.detach().contiguous().cpu().clone()
    return state


def _fill(network: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Copy ``weights`` into ``network`` after making sure that each fits."""
    expected = _unshared(network)
    missing, unexpected = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
    wrong = [name for name in expected if name in weights and expected[name].shape != weights[name].shape]
    if missing or unexpected or wrong:
        example = (missing or unexpected or wrong)[0]
        raise UserError(
            f"{path} does not fit the network: {len(missing)} tensors are missing, {len(unexpected)} unknown and "
            f"{len(wrong)} of another shape (first: {example})."
        )
    _cast(network, weights)
    network.load_state_dict(weights, strict=False)  # shared tensors have further names


def _cast(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give ``network`` the number formats of ``weights`` (float16, bfloat16, float64, ...)."""
    formats = {value.dtype for value in weights.values() if value.is_floating_point()}
    if len(formats) == 1:
        network.to(formats.pop())  # also what is not among the weights: buffers that are never saved
    tensors = named_tensors(network)
    for name, value in weights.items():
        if name in tensors and tensors[name].dtype != value.dtype:
            tensors[name].data = tensors[name].data.to(value.dtype)


def _page(path: Path) -> dict[str, Any]:
    try:
        page = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not readable JSON ({error}); copy it again from where it was made."
        ) from error
    needed = {"schema", "origin", "network", "plan", "weights_sha256", "torch", "page_sha256"}
    if not isinstance(page, dict) or page.get("schema") != SCHEMA or set(page) != needed:
        raise UserError(f"{path} does not describe a network saved by prunelab (schema {SCHEMA}).")
    if page.pop("page_sha256") != _digest(page):
        raise UserError(f"{path} was edited after it was written; copy it again from where it was made.")
    return page


def _digest(page: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(page, sort_keys=True).encode()).hexdigest()


def _built(page: dict[str, Any], folder: Path) -> nn.Module:
    if page["origin"] is None:
        raise UserError(
            f"{folder} holds a {page['network']} that prunelab did not build: pass a fresh full network of that kind, "
            "prunelab.load(folder, model=...)."
        )
    return Origin.from_dict(page["origin"]).build()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}. A saved network is {WEIGHTS_FILE} and {PLAN_FILE}."
        ) from error
