"""Which names stand for a network."""

from __future__ import annotations

import timm
from timm.models import is_model, is_model_pretrained, split_model_name_tag

from prunelab.errors import UserError, nearest


def check_name(name: str) -> None:
    """Accept a name of timm's registry, with or without a weights tag (``resnet50.a1_in1k``).

    timm also knows sources outside its registry (``hf-hub:...``, ``local-dir:...``); these are no names here,
    since a network must be built the same way again without a look elsewhere.

    Raises:
        UserError: unknown name or tag; the nearest known ones are offered.
    """
    if not isinstance(name, str) or not is_model(name):
        raise UserError(f"No model is called {name!r}. {nearest(str(name), timm.list_models())}")
    architecture, tag = split_model_name_tag(name)
    tagged = [each for each in timm.list_models(architecture, include_tags=True) if each != architecture]
    if tag and name not in tagged:
        known = nearest(name, tagged) if tagged else f"It has none: use {architecture!r}."
        raise UserError(f"{architecture} has no weights called {tag!r}. {known}")


def check_has_weights(name: str) -> None:
    """Refuse a name whose pretrained weights were never published."""
    if not is_model_pretrained(name):
        raise UserError(
            f"There are no published weights of {name}. Use pretrained=false, then train it or load your own."
        )
