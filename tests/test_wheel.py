"""An installed wheel works without the checkout: code, configuration and console scripts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel of this checkout was installed (its dependencies are the environment's)."""
    dist, site = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(dist), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = dist.glob("prunelab-*.whl")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    return site


def run(site: Path, program: str, folder: Path) -> str:
    """The output of a Python program that runs in ``folder`` with the installed wheel."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_configuration_file(site: Path) -> None:
    shipped = {path.relative_to(site / "prunelab/conf") for path in (site / "prunelab/conf").rglob("*.yaml")}
    assert shipped == {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}


def test_the_wheel_holds_the_parts_of_the_page(site: Path) -> None:
    def parts(folder: Path) -> set[str]:
        return {path.name for path in folder.iterdir() if path.suffix in (".html", ".css", ".js")}

    assert parts(site / "prunelab/report/page") == parts(ROOT / "src/prunelab/report/page") != set()


def test_a_run_is_composed_from_the_wheel_alone(site: Path, tmp_path: Path) -> None:
    program = (
        "import sys, prunelab\n"
        "print(prunelab.__file__)\n"
        "from prunelab.cli.run import main\n"
        "sys.argv = ['prunelab', '--cfg', 'job', 'method=fpgm', 'budget.flops=0.5']\n"
        "main()\n"
    )
    printed = run(site, program, tmp_path)
    assert printed.startswith(str(site))
    assert "prunelab.methods.FPGM" in printed


def test_console_scripts_are_declared(site: Path) -> None:
    (entry_points,) = site.glob("prunelab-*.dist-info/entry_points.txt")
    assert set(entry_points.read_text().split()) >= {
        "prunelab",
        "prunelab-again",
        "prunelab-profile",
        "prunelab-report",
    }


@pytest.mark.slow
def test_a_criterion_outside_the_checkout(site: Path, tmp_path: Path) -> None:
    """The files of docs/how-to/your-criterion.md, with the console script of the wheel."""
    page = (ROOT / "docs/how-to/your-criterion.md").read_text()
    for title, text in re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', page, re.DOTALL | re.MULTILINE):
        (tmp_path / title).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / title).write_text(text)
    (words,) = re.findall(r"^prunelab (--config-dir conf method=spread .*)$", page, re.MULTILINE)
    quick = ["baseline.training.epochs=1", "recipe.training.epochs=1", "trainer=cpu"]
    done = subprocess.run(
        [sys.executable, str(site / "bin/prunelab"), *words.split(), *quick],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("outputs/runs/*/record.json")
    record = json.loads(file.read_text())
    assert record["config"]["method"]["criterion"]["_target_"] == "mine.Spread"
    assert 0.48 < record["budget"]["reached"] <= 0.5
