"""Named contents are identified by their content."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunelab.cli.config import configure
from prunelab.records import baseline_key, run_key
from prunelab.records.contents import content_digests, folder_digest, source_digest

Configure = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def images(root: Path, **contents: bytes) -> Path:
    for name, content in contents.items():
        file = root / "train" / "cat" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return root


def test_images_are_identified_by_content_in_any_folder(tmp_path: Path) -> None:
    here = images(tmp_path / "here", a=b"1", b=b"2")
    there = images(tmp_path / "there", a=b"1", b=b"2")
    os.utime(there / "train" / "cat" / "a.png", (0, 0))
    (there / "notes.txt").write_text("no image, and not in train/")
    assert folder_digest(here) == folder_digest(there)
    before = folder_digest(here)
    (here / "train" / "cat" / "a.png").write_bytes(b"3")
    assert folder_digest(here) != before
    assert folder_digest(images(there, c=b"4")) != before


def test_exchanged_images_with_the_times_of_the_earlier_ones_are_noticed(tmp_path: Path) -> None:
    root = images(tmp_path / "here", a=b"1")
    image = root / "train" / "cat" / "a.png"
    before, times = folder_digest(root), image.stat()
    image.write_bytes(b"2")
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert folder_digest(root) != before


def test_a_large_folder_counts_by_names_sizes_and_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunelab.records.contents.CONTENT_BYTES", 0)
    root = images(tmp_path / "here", a=b"1")
    before = folder_digest(root)
    assert folder_digest(root) == before
    os.utime(root / "train" / "cat" / "a.png", (0, 0))
    assert folder_digest(root) != before


def test_exchanged_images_are_another_run_and_another_baseline(tmp_path: Path) -> None:
    root = images(tmp_path / "photos", a=b"1")
    words = ["budget.flops=0.5", "data=image_folder", f"data.root={root}"]
    before = configure(words)
    keys = run_key(before), baseline_key(before)
    images(root, a=b"2")
    assert run_key(before) != keys[0]
    assert baseline_key(before) != keys[1]


@pytest.mark.slow
def test_a_part_of_imagenet_counts_by_its_images_and_all_of_it_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = images(tmp_path / "imagenet", a=b"1")
    words = ["budget.flops=0.5", "data=imagenet", f"data.root={root}"]
    without_val = run_key(configure(words))
    (root / "val" / "cat").mkdir(parents=True)
    part = run_key(configure(words))
    images(root, a=b"2")
    assert len({without_val, part, run_key(configure(words))}) == 3
    monkeypatch.setattr("prunelab.records.contents.IMAGENET_CLASSES", 1)
    few_images = run_key(configure(words))
    monkeypatch.setattr("prunelab.records.contents.IMAGENET_TEST_IMAGES", 0)
    few_training_images = run_key(configure(words))
    monkeypatch.setattr("prunelab.records.contents.IMAGENET_IMAGES_OF_A_CLASS", 1)
    assert few_images == few_training_images != without_val
    assert run_key(configure(words)) == without_val


def test_a_folder_is_read_once_for_a_sweep(tmp_path: Path) -> None:
    root = images(tmp_path / "photos", a=b"1")
    config = configure(["budget.flops=0.5", "data=image_folder", f"data.root={root}"])
    read: dict[Path, str] = {}
    first = content_digests(config, read)
    images(root, a=b"2")
    assert content_digests(config, read) == first != content_digests(config)


def test_the_source_of_a_user_network_includes_its_imports() -> None:
    name, helper = f"nets_{uuid.uuid4().hex}", f"layers_{uuid.uuid4().hex}"
    Path(f"{helper}.py").write_text("WIDTH = 8\n")
    Path(f"{name}.py").write_text(f"import torch\nfrom {helper} import WIDTH\n")
    config = configure(["budget.flops=0.5", "model=timm", "model.name=tiny", f"model.module={name}"])
    keys = run_key(config), baseline_key(config)

    Path(f"{name}.py").write_text(f"# A comment\nimport torch  # another\n\nfrom {helper} import WIDTH\n")
    assert (run_key(config), baseline_key(config)) == keys
    Path(f"{helper}.py").write_text("WIDTH = 9\n")
    assert run_key(config) != keys[0]
    assert baseline_key(config) != keys[1]
    assert name not in sys.modules  # nothing was imported


def test_a_comment_sign_in_text_is_no_comment() -> None:
    Path("texts_for_digest.py").write_text("A = '#1'\n")
    before = source_digest("texts_for_digest")
    Path("texts_for_digest.py").write_text("A = '#2'\n")
    assert source_digest("texts_for_digest") != before


def test_sources_of_user_classes_are_recorded_by_their_place() -> None:
    Path("mine_for_digest.py").write_text("class Mine: ...\nclass Images: ...\n")
    config = configure(
        [
            "budget.flops=0.5",
            "method.criterion._target_=mine_for_digest.Mine",
            "data._target_=mine_for_digest.Images",
        ]
    )
    assert set(content_digests(config)) == {"method.criterion._target_", "data._target_"}
    before = run_key(config), baseline_key(config)
    Path("mine_for_digest.py").write_text("class Mine: x = 1\nclass Images: ...\n")
    assert baseline_key(config) != before[1]  # of the data class
