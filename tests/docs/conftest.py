"""The generator of the reference of keys, which MkDocs runs as a hook."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def keys() -> ModuleType:
    """docs/hooks/keys.py."""
    specification = importlib.util.spec_from_file_location("prunelab_docs_keys", ROOT / "docs/hooks/keys.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def known_keys(keys: ModuleType) -> set[str]:
    """Every key of the configuration, with its group."""
    return {key.name for choice in keys.choices(ROOT / "conf") for key in choice.keys}
