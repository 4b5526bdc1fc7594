"""Metadata of the project: versions and licence are the same in every file that states them."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import prunelab

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {requirement.name: str(requirement.specifier).removeprefix("==") for requirement in requirements}


@pytest.mark.slow
def test_constraints_are_the_versions_of_most_records() -> None:
    records = [json.loads(path.read_text()) for path in ROOT.glob("experiments/**/record.json")]
    assert records
    versions = Counter((name, version) for record in records for name, version in record["versions"].items())
    recorded = {name for name, _ in versions} - {"python", "prunelab"}
    most = {
        name: max((version for found, version in versions if found == name), key=lambda v: versions[name, v])
        for name in recorded
    }
    assert {name: version for name, version in pins().items() if name in recorded} == most


def test_constraints_pin_every_direct_dependency() -> None:
    extras = PROJECT["optional-dependencies"]
    direct = [*PROJECT["dependencies"], *extras["fast"], *extras["cluster"], *extras["optuna"]]
    assert {Requirement(text).name for text in direct} == set(pins()), "change constraints.txt too"


def test_the_citation_has_the_project_s_version_and_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (str(citation["version"]), citation["license"]) == (prunelab.__version__, PROJECT["license"])
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_the_workflow_runs_the_ci_script() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    commands = [step.get("run") for step in workflow["jobs"]["ci"]["steps"]]
    assert "bash .ci/run" in commands
