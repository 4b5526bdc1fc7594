"""A W&B report with the panels of the page, from the runs that were logged there (logger=wandb)."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from prunelab.errors import UserError
from prunelab.report import notes
from prunelab.report.aggregate import Report, Table
from prunelab.report.markdown import to_markdown
from prunelab.report.measures import BATCH_SIZES

LONGEST_TITLE = 128
LONGEST_TAG = 64
"""W&B rejects a run with a longer tag."""

RESULT = "result"
SEARCH = "search"
"""The job type of the W&B runs that hold the final figures, under the column names of the report's CSV file."""

LEARNING_JOBS = ("learning", "round", "recovery", "low-rank")
CURVES = ("val/top1", "val/loss", "train/top1", "train/loss")
COLUMNS = (
    "config:names.value.method",
    "config:seed.value",
    "summary:top1",
    "summary:top1_change",
    "summary:after_pruning_top1",
    "summary:flops_fraction",
    "summary:params_fraction",
    *(f"summary:speedup_batch_{batch}" for batch in BATCH_SIZES),
    "summary:score_s",
)


def publish(report: Report, path: str) -> str:
    """Save the report in the W&B project ``path`` (ENTITY/PROJECT) and return its address.

    Raises ``UserError`` if the project does not exist, W&B cannot be reached, or its client is not installed.
    """
    entity, slash, project = path.partition("/")
    if not (entity and slash and project) or "/" in project:
        raise UserError(
            f"--wandb {path} is not a project. Write ENTITY/PROJECT, as in --wandb my-team/prunelab."
        )
    client = _client()
    import wandb

    try:
        return str(build(client, report, entity, project).save().url)
    except (wandb.errors.Error, ValueError, OSError) as error:
        raise UserError(f"The report cannot be saved in W&B's {path}: {error}") from error
    except Exception as error:
        # Without a login the client raises a plain Exception.
        if "not logged in" in str(error):
            raise UserError("You are not logged in to W&B. Run `wandb login` once.") from error
        raise


def build(client: ModuleType, report: Report, entity: str, project: str) -> Any:
    """The W&B report, not yet saved. ``client`` is ``wandb_workspaces.reports.v2``."""
    blocks = [client.TableOfContents()]
    for table in report.tables:
        if table.rows:
            blocks += _sections(client, table, entity, project)
    blocks += [client.H1("Table"), client.MarkdownBlock(to_markdown(report))]
    return client.Report(
        entity=entity,
        project=project,
        title=f"prunelab: {report.study}"[:LONGEST_TITLE],
        description="Comparison of structured pruning methods, written by prunelab-report --wandb.",
        blocks=blocks,
        width="fluid",
    )


def _sections(client: ModuleType, table: Table, entity: str, project: str) -> list[Any]:
    results = [_runset(client, table, RESULT, entity, project)]
    jobs = [_runset(client, table, job, entity, project) for job in LEARNING_JOBS]
    return [
        client.H1(notes.title(table)),
        client.H2("Accuracy against costs"),
        client.PanelGrid(runsets=results, panels=_accuracies(client)),
        client.H2("Methods"),
        client.PanelGrid(runsets=results, panels=_methods(client)),
        client.H2("Channels kept in each group"),
        client.PanelGrid(
            runsets=results, panels=[_wide(client, client.WeavePanelSummaryTable(table_name="widths"))]
        ),
        client.H2("Stages"),
        client.PanelGrid(
            runsets=results, panels=[_wide(client, client.WeavePanelSummaryTable(table_name="stages"))]
        ),
        client.H2("Learning curves"),
        client.PanelGrid(runsets=jobs[::-1], panels=_curves(client)),
        *_searches(client, table, entity, project),
    ]


def _searches(client: ModuleType, table: Table, entity: str, project: str) -> list[Any]:
    """The best score against the number of evaluations; nothing without a search."""
    if not any(run.search for row in table.rows for run in row.runs):
        return []
    runset = _runset(client, table, SEARCH, entity, project)
    curve = client.LinePlot(
        title="Best score on held-out images", x="Step", y=["search/best"], title_x="evaluation",
        groupby=client.Config("names.method"), layout=client.Layout(w=12, h=9),
    )  # fmt: skip
    return [client.H2("Searches"), client.PanelGrid(runsets=[runset], panels=[curve])]


def _runset(client: ModuleType, table: Table, job: str, entity: str, project: str) -> Any:
    """The W&B runs of one job type that belong to the table."""
    from wandb_workspaces import expr

    studies = sorted({run.record.study for row in table.rows for run in row.runs})
    return client.Runset(
        entity=entity,
        project=project,
        name=job,
        filters=expr.And(
            expr.Metric("Group").isin(studies),
            expr.Metric("JobType") == job,
            expr.Tags().isin([table.model[:LONGEST_TAG]]),
            expr.Tags().isin([table.data[:LONGEST_TAG]]),
        ),
        pinned_columns=list(COLUMNS) if job == RESULT else [],
    )


def _accuracies(client: ModuleType) -> list[Any]:
    costs = {"flops": "FLOPs", "params": "parameters"}
    costs |= {f"forward_ms_batch_{batch}": f"milliseconds, batch of {batch}" for batch in BATCH_SIZES}
    return [
        client.ScatterPlot(
            title=f"Top-1 against {title}",
            x=client.SummaryMetric(measure),
            y=client.SummaryMetric("top1"),
            layout=client.Layout(x=12 * (place % 2), y=9 * (place // 2), w=12, h=9),
        )
        for place, (measure, title) in enumerate(costs.items())
    ]


def _methods(client: ModuleType) -> list[Any]:
    bars = {
        "Top-1 after pruning and after recovery": ["after_pruning_top1", "top1"],
        "Speed-up, and the ratio of FLOPs": [
            "flops_ratio",
            *(f"speedup_batch_{each}" for each in BATCH_SIZES),
        ],
        "Seconds to prune": ["score_s"],
    }
    return [
        client.BarPlot(
            title=title,
            metrics=metrics,
            groupby=client.Config("names.method"),
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            layout=client.Layout(x=8 * place, w=8, h=9),
        )
        for place, (title, metrics) in enumerate(bars.items())
    ]


def _curves(client: ModuleType) -> list[Any]:
    return [
        client.LinePlot(
            title=figure,
            x="Step",
            y=[figure],
            title_x="epoch",
            groupby=client.Config("names.method"),
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            layout=client.Layout(x=12 * (place % 2), y=8 * (place // 2), w=12, h=8),
        )
        for place, figure in enumerate(CURVES)
    ]


def _wide(client: ModuleType, panel: Any) -> Any:
    panel.layout = client.Layout(w=24, h=10)
    return panel


def _client() -> ModuleType:
    try:
        import wandb_workspaces.reports.v2 as client
    except ModuleNotFoundError as error:
        raise UserError(
            "W&B reports need an additional package: pip install 'prunelab[wandb-report]'."
        ) from error
    return client
