"""deploy=... after a run, and prunelab-deploy for finished runs and for saved networks."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import prunelab as library
from prunelab.cli.deploy import main
from prunelab.models import build
from prunelab.records import InputFormat, Record
from prunelab.records.deployment import Deployment

pytestmark = pytest.mark.slow

Command = Callable[..., Any]
SMALL = (
    "data=image_folder", "data.root=images", "data.image_size=28", "data.mean=[0.5]", "data.std=[0.5]",
    "data.num_workers=0", "data.batch_size=8", "data.val_fraction=0.25", "model=lenet5", "method=l1", "recipe=none",
    "budget.flops=0.5", "baseline.training.epochs=1", "trainer=cpu", "fast_dev_run=2",
)  # fmt: skip


def write_images(folder: Path, number: int) -> None:
    folder.mkdir(parents=True)
    for each in range(number):
        pixels = np.random.default_rng(each).integers(0, 255, (30, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{each}.png")


@pytest.fixture(autouse=True)
def images(tmp_path: Path) -> None:
    for part, label in (("train", "cat"), ("train", "dog"), ("val", "cat"), ("val", "dog")):
        write_images(tmp_path / "images" / part / label, 8)


def test_a_run_is_deployed_once_and_again_with_other_settings(prunelab: Command, tmp_path: Path) -> None:
    plain = prunelab(*SMALL)
    assert plain.code == 0
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    assert not (folder / "deployment").exists()
    record = (folder / "record.json").read_bytes()

    deployed = prunelab(*SMALL, "deploy=onnx_int8")
    assert deployed.code == 0, deployed.err
    assert "already there" in deployed.out  # the key is the same
    assert "pruned, onnxruntime, int8" in deployed.out and "full, onnxruntime" in deployed.out
    file = folder / "deployment" / "deployment.json"
    made = Deployment.from_json(file.read_text())
    assert made.run_key == folder.name
    assert made.stages[0].top1 == json.loads(record)["baseline"]["top1"]
    time = file.stat().st_mtime_ns

    again = prunelab(*SMALL, "deploy=onnx_int8")
    assert "pruned, onnxruntime, int8" in again.out and file.stat().st_mtime_ns == time
    assert (folder / "record.json").read_bytes() == record
    assert not [*folder.glob(".*partial")]

    assert main([str(folder), "--precision", "fp16", "deploy.threads=2"]) == 0
    (*_, shipped) = Deployment.from_json(file.read_text()).stages
    assert (shipped.runtime, shipped.precision) == ("onnxruntime", "fp16")

    redone = prunelab(*SMALL, "sweep.redo=true")
    assert redone.code == 0
    assert not (folder / "deployment").exists()
    assert [*folder.glob("earlier/*/deployment/deployment.json")]


def test_a_run_in_int8_records_its_agreement_and_is_deployed_in_int8(
    prunelab: Command, tmp_path: Path
) -> None:
    ended = prunelab(*SMALL, "precision=int8", "precision.epochs=1", "precision.agreement=1.0")
    assert ended.code == 0, ended.err
    assert "int8 in onnxruntime: the class of float32 for" in ended.out
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    record = Record.from_json((folder / "record.json").read_text())
    first, trained = record.stages[-2:]
    assert (first.name, trained.name) == ("quantised", "quantised, trained")
    assert (trained.runtime, trained.precision) == ("onnxruntime", "int8")
    assert record.pruned.top1 == trained.top1 and trained.bytes < record.stages[1].bytes
    assert trained.params == record.pruned.params
    summary = record.quantisation
    assert summary is not None and record.precision == "int8, 1 epoch"
    assert (summary.without_training, summary.agreement) == (first.agreement, trained.agreement)
    assert bool(summary.warnings) == (summary.agreement < 1) and "bits" in summary.notes[0]
    assert {row["phase"] for row in csv.DictReader((folder / "curves.csv").open())} == {"quantisation"}

    assert main([str(folder)]) == 0  # in the precision of the run
    made = Deployment.from_json((folder / "deployment" / "deployment.json").read_text())
    assert made.shipped == "model_int8.onnx" and made.stages[-1].bytes > trained.bytes  # with metadata
    assert made.stages[-1].top1 == trained.top1
    assert main([str(folder), "--runtime", "torchscript"]) == 0  # which has no int8


def test_runs_in_16_bits(prunelab: Command, tmp_path: Path) -> None:
    ended = prunelab("-m", *SMALL, "precision=fp16,bf16", "precision.epochs=1")
    assert ended.code == 0, ended.err
    found = {}
    for file in (tmp_path / "outputs" / "runs").glob("*/record.json"):
        record = Record.from_json(file.read_text())
        (full, *_, last), summary = record.stages, record.quantisation
        assert last.name == "quantised" and last.bytes < full.bytes and record.pruned.top1 == last.top1
        found[summary.precision] = (full.runtime, summary.runtime, last.runtime)
    assert found == {"fp16": ("onnxruntime",) * 3, "bf16": ("onnxruntime", "eager", "eager")}


def test_a_run_in_one_bit_records_its_size_and_is_loaded(prunelab: Command, tmp_path: Path) -> None:
    ended = prunelab(*SMALL, "precision=xnor", "precision.epochs=1")
    assert ended.code == 0, ended.err
    assert "weights of 1 bit in 2 of 5 layers" in ended.out and "no kernels" in ended.out
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    record = Record.from_json((folder / "record.json").read_text())
    stages = {stage.name: stage for stage in record.stages}
    assert [*stages] == ["full", "pruned", "quantised", "quantised, trained"]
    assert stages["quantised"].bytes < stages["pruned"].bytes
    assert (folder / "model.safetensors").stat().st_size == pytest.approx(stages["quantised"].bytes, abs=100)
    network = library.load(folder)
    assert set(network.prunelab_packed.values()) == {1} and len(network.prunelab_packed) == 2
    assert main([str(folder), "--runtime", "torchscript"]) == 0  # stored as float32


def test_what_cannot_be_deployed_is_said_before_the_run_starts(
    prunelab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunelab.export.deploy.find_spec", lambda name: None)
    ended = prunelab(*SMALL, "deploy=onnx")
    assert ended.code == 1 and "pip install 'prunelab[deploy]'" in ended.err
    ended = prunelab(*SMALL, "deploy=onnx", "deploy.opset=9")
    assert ended.code == 1 and "deploy.opset=9 is too old" in ended.err
    assert not (tmp_path / "outputs").exists()


def test_a_saved_network_is_deployed_with_images_of_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = build("lenet5", 10, in_chans=1, image_size=(28, 28))
    plan = library.analyze(network, torch.zeros(1, 1, 28, 28)).plan(kept={"conv1": [0, 1, 2, 3]})
    network.prunelab_input = InputFormat((1, 28, 28), (0.5,), (0.5,), 28, True, tuple("0123456789"))
    folder = library.save(library.apply(network, plan), tmp_path / "saved")
    write_images(tmp_path / "photos", 6)

    assert main([str(folder), "--precision", "int8"]) == 1
    assert "--images FOLDER" in capsys.readouterr().err
    assert main([str(folder), "--precision", "int8", "--images", str(tmp_path / "photos")]) == 0
    assert "pruned, onnxruntime, int8" in capsys.readouterr().out
    made = Deployment.from_json((folder / "deployment" / "deployment.json").read_text())
    assert (made.run_key, made.checked_images, made.stages[0].top1) == (None, 3, None)
    assert main([str(folder), "data.root=x"]) == 1
    assert main([str(tmp_path)]) == 1
    assert "no folder of a finished run" in capsys.readouterr().err
