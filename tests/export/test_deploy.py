"""What can be deployed is checked before a run starts."""

from __future__ import annotations

import pytest

from prunelab import Deploy
from prunelab.errors import UserError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "onx"}, "deploy.format=onx does not exist. Did you mean 'onnx'"),
        ({"format": "onnx", "precision": "int4"}, "deploy.precision=int4 does not exist"),
        ({"format": "pt2", "precision": "int8"}, "deploy=pt2: .* deploy=onnx_int8"),
        ({"format": "onnx", "opset": 13}, "deploy.opset=13 is too old: .* 18 or later"),
        ({"calibration_images": 0}, "deploy.calibration_images must be a whole number of at least 1"),
        ({"threads": 1.5}, "deploy.threads must be a whole number of at least 1"),
        ({"test_images": True}, "deploy.test_images must be"),
        ({"reduce_range": "maybe"}, "deploy.reduce_range must be auto, true or false"),
        ({"agreement": 98}, "deploy.agreement must lie between 0 and 1"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Deploy(**settings)  # type: ignore[arg-type]


def test_missing_packages_are_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunelab.export.deploy.find_spec", lambda name: name == "onnx" or None)
    Deploy("pt2").require_packages()
    with pytest.raises(UserError, match=r"needs onnxruntime, onnxscript: pip install 'prunelab\[deploy\]'"):
        Deploy("onnx").require_packages()
    with pytest.raises(UserError, match=r"needs onnxscript, openvino, nncf: .*'prunelab\[openvino\]'"):
        Deploy("openvino", "int8").require_packages()
