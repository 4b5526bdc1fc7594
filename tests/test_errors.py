"""Messages for users."""

from __future__ import annotations

import pytest

import prunelab
from prunelab.errors import LONGEST_MESSAGE
from prunelab.models import build


def test_long_names_are_shortened_in_messages() -> None:
    with pytest.raises(prunelab.UserError) as caught:
        build("long" * 250_000, num_classes=10)
    message = str(caught.value)
    assert len(message) < 1000
    assert "There is no model 'longlong" in message
    assert "characters)" in message and message.endswith("names are known.")


def test_long_messages_are_shortened_but_paths_are_not() -> None:
    path = "/" + "/".join(["folder"] * 50)
    assert str(prunelab.UserError(f"There is no file {path}.")) == f"There is no file {path}."
    assert len(str(prunelab.UserError("a b " * 100_000))) < LONGEST_MESSAGE + 50
