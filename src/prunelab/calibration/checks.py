"""Range checks of the settings of calibration steps."""

from __future__ import annotations

from prunelab.errors import UserError


def require_positive(step: str, **numbers: int) -> None:
    """Raises UserError for a number below 1."""
    for name, number in numbers.items():
        if number < 1:
            raise UserError(f"recipe.calibration: {step} needs {name} of at least 1, not {number!r}.")
