"""Modules of the user, which register networks with timm or define methods and criteria."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from prunelab.errors import UserError


def import_user_module(module: str, key: str = "model.module") -> None:
    """Import ``module``: networks that it registers (``timm.models.register_model``) and its classes can then be used.

    The module is searched in the working directory, as Python does for scripts, and among the installed packages.

    Args:
        module: its name, without ".py".
        key: the setting with this name, for messages.

    Raises:
        UserError: the module is not found, or cannot be imported.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise _broken(module, key, error) from error
        raise UserError(
            f"There is no Python module {module!r} in {folder} or among the installed packages. For nets.py write "
            f"{key}=nets."
        ) from error
    except Exception as error:
        raise _broken(module, key, error) from error


def _broken(module: str, key: str, error: Exception) -> UserError:
    return UserError(f"{key}={module} cannot be imported: {type(error).__name__}: {error}")
