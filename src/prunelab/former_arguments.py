"""Arguments of constructors under their former names."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

Constructor = TypeVar("Constructor", bound=Callable[..., None])


def accepts_former(**former: str) -> Callable[[Constructor], Constructor]:
    """Decorates an ``__init__`` so that it accepts arguments under former names too, with a ``FutureWarning``.

    Args:
        former: former name = present name.

    Raises:
        TypeError: an argument is given under both names.

    >>> class Group:
    ...     @accepts_former(floor="min_keep")
    ...     def __init__(self, min_keep: float = 0.1) -> None:
    ...         self.min_keep = min_keep
    >>> with warnings.catch_warnings(action="ignore"):
    ...     Group(floor=0.2).min_keep
    0.2
    """

    def decorate(constructor: Constructor) -> Constructor:
        @functools.wraps(constructor)
        def renamed(self: Any, *arguments: Any, **settings: Any) -> None:
            for name in former.keys() & settings.keys():
                present = former[name]
                if present in settings:
                    raise TypeError(f"{name} is the former name of {present}: give one of them")
                warnings.warn(
                    f"The argument {name} is now called {present}; {name} will be removed.",
                    FutureWarning,
                    stacklevel=2,
                )
                settings[present] = settings.pop(name)
            constructor(self, *arguments, **settings)

        return renamed  # type: ignore[return-value]

    return decorate
