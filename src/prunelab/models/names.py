"""The names of networks."""

from __future__ import annotations

import timm
from timm.models import is_model, is_model_pretrained, split_model_name_tag

from prunelab.errors import UserError, nearest


def check_name(name: str) -> None:
    """Accept a name of timm's registry, with or without a weights tag (``resnet50.a1_in1k``).

    timm also accepts sources outside its registry (``hf-hub:...``, ``local-dir:...``). They are not allowed here,
    because a saved network must be rebuilt the same way without them.

    Raises:
        UserError: unknown name or tag; the message suggests similar names.
    """
    if not isinstance(name, str) or not is_model(name):
        raise UserError(f"There is no model {name!r}. {nearest(str(name), timm.list_models())}")
    architecture, tag = split_model_name_tag(name)
    tagged = [each for each in timm.list_models(architecture, include_tags=True) if each != architecture]
    if tag and name not in tagged:
        known = nearest(name, tagged) if tagged else f"No weights are published: use {architecture!r}."
        raise UserError(f"{architecture} has no weights {tag!r}. {known}")


def check_has_weights(name: str) -> None:
    """Raise UserError for a name without published weights."""
    if not is_model_pretrained(name):
        raise UserError(
            f"There are no published weights of {name}. Use pretrained=false, and train the network or load weights "
            "of your own."
        )
