"""The range of int8 weights follows the instructions of the processor."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunelab.export.int8 import weight_range

CPUINFO = "processor\t: 0\nflags\t\t: fpu sse2 avx2 {flags}\n\nprocessor\t: 1\nflags\t\t: fpu\n"


@pytest.mark.parametrize(
    ("flags", "reduced"), [("avx512f", True), ("avx512f avx512_vnni", False), ("avx_vnni", False)]
)
def test_weights_use_7_bits_where_the_processor_lacks_vnni(
    flags: str, reduced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (tmp_path / "cpuinfo").write_text(CPUINFO.format(flags=flags))
    found = weight_range("auto", tmp_path / "cpuinfo")
    assert found.reduced == reduced
    assert flags.split()[-1] in found.reason or "no VNNI" in found.reason


def test_an_unknown_processor_gets_7_bits_and_arm_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert weight_range("auto", tmp_path / "none").reduced
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert not weight_range("auto", tmp_path / "none").reduced


def test_a_given_range_is_used(tmp_path: Path) -> None:
    assert [weight_range(each, tmp_path / "none").reduced for each in (True, False)] == [True, False]
