"""Checks of the data modules' constructor arguments, with uniform messages."""

from __future__ import annotations

from collections.abc import Sequence

from prunelab.errors import UserError, nearest

LARGEST_SEED = 2**32 - 1
"""NumPy's limit."""


def whole_number(name: str, value: int, at_least: int, group: str = "data") -> int:
    """``value`` if it is an int of at least ``at_least``; raises UserError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise UserError(f"{group}.{name} must be a whole number of at least {at_least}, not {value!r}.")
    return value


def seed_number(name: str, value: int) -> int:
    """``value`` if it is an int from 0 to ``LARGEST_SEED``; raises UserError otherwise."""
    if whole_number(name, value, at_least=0) > LARGEST_SEED:
        raise UserError(f"data.{name} must be at most {LARGEST_SEED}, not {value}.")
    return value


def padding(value: int, image_size: int) -> int:
    """``value`` if every random crop of an image with this padding contains a part of the image.

    ``image_size`` is the side of the images. Raises UserError otherwise.
    """
    if whole_number("crop_padding", value, at_least=0) >= image_size:
        raise UserError(
            f"data.crop_padding={value} is too large for images of {image_size} pixels: some crops would contain only "
            f"padding. Use at most {image_size - 1}."
        )
    return value


def open_fraction(name: str, value: float) -> float:
    """``value`` if it lies strictly between 0 and 1; raises UserError otherwise."""
    if not _is_number(value) or not 0 < value < 1:
        raise UserError(f"data.{name} must lie between 0 and 1 (both excluded), not {value!r}.")
    return float(value)


def positive_fraction(name: str, value: float) -> float:
    """``value`` if it is above 0 and at most 1; raises UserError otherwise."""
    if not _is_number(value) or not 0 < value <= 1:
        raise UserError(f"data.{name} must be above 0 and at most 1, not {value!r}.")
    return float(value)


def switch(name: str, value: bool) -> bool:
    """``value`` if it is a bool; raises UserError otherwise."""
    if not isinstance(value, bool):
        raise UserError(f"data.{name} must be true or false, not {value!r}.")
    return value


def one_of(name: str, value: str, known: Sequence[str]) -> str:
    """``value`` if it is one of ``known``; raises UserError otherwise."""
    if value not in known:
        raise UserError(f"data.{name}: {value!r} does not exist. {nearest(str(value), known)}")
    return value


def channel_values(name: str, values: Sequence[float], channels: Sequence[int]) -> tuple[float, ...]:
    """``values`` as a tuple if there is one number for each channel; raises UserError otherwise.

    ``channels`` lists the allowed numbers of channels.
    """
    allowed = " or ".join(str(number) for number in channels)
    # OmegaConf passes a ListConfig, which is a Sequence. A string is one too, but it is a mistake here.
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    if not is_list or len(values) not in channels or not all(isinstance(v, int | float) for v in values):
        raise UserError(
            f"data.{name} must be a list of {allowed} number(s), one per channel, not {values!r}."
        )
    return tuple(float(value) for value in values)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
