"""precision=...: choices, keys of runs, and what is refused before a run starts."""

from __future__ import annotations

import pytest

from prunelab import Precision
from prunelab.cli.config import configure
from prunelab.errors import UserError
from prunelab.records import run_key
from prunelab.steps import Setup

RUN = ("budget.flops=0.5", "model=resnet20", "data=digits", "method=l1")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "int4"}, "precision=int4 does not exist. Did you mean 'int8'"),
        ({"name": "bf16", "runtime": "onnxruntime"}, "does not compute in bf16. Use eager"),
        ({"name": "fp16", "epochs": 1}, "there is no training in fp16"),
        ({"name": "int8", "calibration_images": 0}, "precision.calibration_images must be a whole number"),
        ({"name": "int8", "reduce_range": "no"}, "precision.reduce_range must be auto, true or false"),
        ({"name": "int8", "agreement": 98}, "precision.agreement must lie between 0 and 1"),
        ({"name": "int8", "lr": 0}, "precision.lr must be above 0"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Precision(**settings)  # type: ignore[arg-type]


def test_a_precision_is_a_part_of_the_key_and_float32_is_not() -> None:
    plain = configure(RUN)
    former = {name: value for name, value in plain.items() if name != "precision"}
    small = configure([*RUN, "precision=int8"])
    assert run_key(plain) == run_key(former) != run_key(small)
    assert run_key(small) == run_key(configure([*RUN, "precision=int8", "precision.runtime=null"]))
    assert Setup.of(former).precision == Precision()


def test_settings_that_a_format_does_not_use_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """As in a sweep over precision=fp32,int8."""
    swept = configure([*RUN, "precision=fp32", "precision.epochs=2"])

    def key(name: str, **settings: object) -> str:
        return run_key({**swept, "precision": {**swept["precision"], "name": name, "epochs": 0, **settings}})

    assert key("fp32", epochs=2, runtime="openvino", calibration_images=8) == key("fp32")
    assert key("fp16", epochs=2, reduce_range=True) == key("fp16") != key("fp16", runtime="eager")
    assert key("ternary", calibration_images=8) == key("ternary") != key("ternary", epochs=2)
    assert key("int8", exclude=["fc"]) == key("int8") != key("int8", epochs=2)
    with caplog.at_level("INFO", logger="prunelab"):
        assert Setup.of(swept).precision == Precision()
    assert "precision.epochs=2 is not used with precision=fp32" in caplog.text


def test_the_files_of_a_run_have_its_precision() -> None:
    words = ["precision=int8", "precision.calibration_images=32", "deploy=onnx"]
    deploy = configure([*RUN, *words])["deploy"]
    assert (deploy["precision"], deploy["calibration_images"]) == ("int8", 32)
    deploy = configure([*RUN, "deploy=onnx_int8"])["deploy"]
    assert (deploy["precision"], deploy["calibration_images"]) == ("int8", 256)
    assert configure([*RUN, "precision=bf16", "deploy=pt2"])["deploy"]["precision"] == "bf16"
    # onnxruntime has no kernels for bf16 on a processor.
    assert configure([*RUN, "precision=bf16", "deploy=onnx"])["deploy"]["precision"] == "fp32"


def test_missing_packages_are_named_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunelab.export.deploy.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"int8 in onnxruntime needs onnx, .* 'prunelab\[deploy\]'"):
        Setup.of(configure([*RUN, "precision=int8"]))
    with pytest.raises(UserError, match=r"int8 in openvino needs .*nncf: pip install 'prunelab\[openvino\]'"):
        Setup.of(configure([*RUN, "precision=int8", "precision.runtime=openvino"]))
