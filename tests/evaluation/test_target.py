"""The target of a latency: what it can be, and what is said where it is not there."""

from __future__ import annotations

from typing import Any

import pytest

from prunelab import Budget, Target, UserError
from prunelab.evaluation import target as target_module


def test_the_default_target_is_this_machine() -> None:
    assert str(Target()) == "onnxruntime on cpu, fp32, batch 1, 1 thread"
    assert Budget(latency=0.5).goal == Target()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"runtime": "onnx"}, r"budget\.target\.runtime=onnx.*onnxruntime"),
        ({"precision": "fp8"}, r"budget\.target\.precision=fp8"),
        ({"batch_size": 0}, r"budget\.target\.batch_size=0"),
        ({"threads": True}, r"budget\.target\.threads=True"),
        ({"device": "gpu0"}, r"budget\.target\.device=gpu0"),
        ({"device": "cuda"}, r"runtime=onnxruntime is measured on cpu"),
        ({"precision": "bf16"}, r"runtime=onnxruntime is not measured in bf16\. .*runtime=eager or compiled"),
        (
            {"runtime": "eager", "precision": "int8"},
            r"runtime=eager is not measured in int8.*runtime=onnxruntime",
        ),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Target(**settings)


def test_a_missing_runtime_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "prunelab.export.deploy.find_spec", lambda name: None if name == "onnxruntime" else name
    )
    with pytest.raises(UserError, match=r"needs onnxruntime: pip install 'prunelab\[deploy\]'"):
        Target().require_available()
    Target(runtime="eager").require_available()


def test_a_missing_device_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module.torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"budget\.target\.device=cuda: this machine has no such device"):
        Target(runtime="eager", device="cuda").require_available()
    monkeypatch.setattr(target_module.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(target_module.torch.cuda, "device_count", lambda: 2)
    Target(runtime="eager", device="cuda:1").require_available()
    with pytest.raises(UserError, match=r"budget\.target\.device=cuda:2: this machine has only 2 of them"):
        Target(runtime="eager", device="cuda:2").require_available()


def test_a_target_belongs_to_a_latency() -> None:
    with pytest.raises(UserError, match=r"no effect on budget\.flops"):
        Budget(flops=0.5, target=Target())
    kept = Budget(latency=0.5, target=Target(threads=2)).keeping(0.25)
    assert (kept.keep, kept.goal.threads) == (0.25, 2)
