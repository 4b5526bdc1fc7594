"""The report on W&B, built with its real client; only the server is replaced."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from prunelab.errors import UserError
from prunelab.report import Report, aggregate, read_study
from prunelab.report.wandb_report import publish

if TYPE_CHECKING:
    from conftest import StudyFolder


class Server:
    """Responds like W&B, and keeps the specification of the saved report."""

    app_url = "https://wandb.example"

    def __init__(self, known: bool = True) -> None:
        self.known = known
        self.saved: dict[str, Any] = {}
        self._service_api = self  # where the client looks for both

    def execute_graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "spec" not in variables:
            return {"project": {"internalId": "7"} if self.known else None}
        self.saved = variables
        project = {"name": variables["projectName"], "entityName": variables["entityName"]}
        view = {
            "id": "42",
            "displayName": variables["displayName"],
            "project": project,
            "spec": variables["spec"],
        }
        return {"upsertView": {"view": view | {"description": "", "name": "x"}}}

    def projects(self, entity: str) -> list[Any]:
        return []

    def create_project(self, project: str, entity: str) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    played = Server()
    monkeypatch.setattr("wandb_workspaces.reports.v2.interface._get_api", lambda: played)
    return played


@pytest.fixture
def report(study: StudyFolder) -> Report:
    study.finished("l1")
    study.finished("l2", model="vgg", key="other")
    study.failed("fpgm")
    return aggregate(read_study(study.path))


def test_every_table_has_the_panels_of_the_page(report: Report, server: Server) -> None:
    address = publish(report, "team/pruning")

    assert address == "https://wandb.example/team/pruning/reports/prunelab:-demo--42"
    blocks = json.loads(server.saved["spec"])["blocks"]
    headings = [block["children"][0]["text"] for block in blocks if block["type"] == "heading"]
    of_a_table = [
        "Accuracy against costs", "Methods", "Channels kept in each group", "Stages", "Learning curves",
    ]  # fmt: skip
    assert headings == ["resnet20 on digits", *of_a_table, "vgg on digits", *of_a_table, "Table"]
    grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    panels = [grid["panelBankSectionConfig"]["panels"] for grid in grids[:5]]
    axes = [(panel["config"]["xAxis"], panel["config"]["yAxis"]) for panel in panels[0]]
    costs = ("flops", "params", "forward_ms_batch_1", "forward_ms_batch_64")
    assert axes == [(f"summary:{cost}", "summary:top1") for cost in costs]
    assert panels[1][0]["config"]["metrics"] == ["after_pruning_top1", "top1"]
    assert "widths" in json.dumps(panels[2])
    assert "stages" in json.dumps(panels[3])
    assert [panel["config"]["metrics"] for panel in panels[4]] == [
        ["val/top1"],
        ["val/loss"],
        ["train/top1"],
        ["train/loss"],
    ]
    (markdown,) = (block["content"] for block in blocks if block["type"] == "markdown-block")
    assert "| l1 | 1 | 95.00 | 50.00 | 90.00 |" in markdown


def test_panels_show_the_runs_of_the_study_by_job_type(report: Report, server: Server) -> None:
    publish(report, "team/pruning")

    grids = [block for block in json.loads(server.saved["spec"])["blocks"] if block["type"] == "panel-grid"]
    wanted = [
        [(each["key"]["name"], each["value"]) for each in runs["filters"]["filters"]]
        for runs in (*grids[0]["metadata"]["runSets"], *grids[9]["metadata"]["runSets"])
    ]
    group, vgg, data = ("group", ["demo"]), ("tags", ["vgg"]), ("tags", ["digits"])
    assert wanted == [
        [group, ("jobType", "result"), ("tags", ["resnet20"]), data],
        *([group, ("jobType", job), vgg, data] for job in ("low-rank", "recovery", "round", "learning")),
    ]


@pytest.mark.parametrize("path", ["pruning", "team/", "a/b/c"])
def test_an_invalid_project_is_a_user_error(report: Report, path: str) -> None:
    with pytest.raises(UserError, match="Write ENTITY/PROJECT"):
        publish(report, path)


def test_a_project_that_is_not_there(report: Report, server: Server) -> None:
    server.known = False

    with pytest.raises(UserError, match=r"cannot be saved in W&B's team/pruning: .*not found"):
        publish(report, "team/pruning")


def test_without_an_account(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise Exception("not logged in to W&B, try `wandb login --relogin`")

    monkeypatch.setattr("wandb_workspaces.reports.v2.interface._get_api", fail)

    with pytest.raises(UserError, match=r"not logged in to W&B\. Run `wandb login`"):
        publish(report, "team/pruning")


def test_without_the_client_for_reports(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)

    with pytest.raises(UserError, match=r"pip install 'prunelab\[wandb-report\]'"):
        publish(report, "team/pruning")
