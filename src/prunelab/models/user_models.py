"""Networks that a user module registers with timm."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from prunelab.errors import UserError


def import_user_module(module: str) -> None:
    """Import ``module``, which registers networks (``timm.models.register_model``) so that ``build`` finds them.

    The module is searched in the working directory, as Python does for scripts, and among the installed packages.

    Raises:
        UserError: it is not found, or cannot be imported.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise _broken(module, error) from error
        raise UserError(
            f"There is no Python module {module!r} in {folder} or among the installed packages. For nets.py write "
            "model.module=nets."
        ) from error
    except Exception as error:
        raise _broken(module, error) from error


def _broken(module: str, error: Exception) -> UserError:
    return UserError(f"model.module={module} cannot be imported: {type(error).__name__}: {error}")
