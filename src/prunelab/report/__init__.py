"""From the records of a study to one table: in the terminal, as Markdown and as CSV. Needs no torch."""

from prunelab.report.aggregate import Baseline, Report, Row, Table, aggregate
from prunelab.report.csv import to_csv
from prunelab.report.markdown import to_markdown
from prunelab.report.measures import Statistic
from prunelab.report.read import Problem, Study, read_study
from prunelab.report.row_key import RowKey
from prunelab.report.table import print_report

__all__ = [
    "Baseline",
    "Problem",
    "Report",
    "Row",
    "RowKey",
    "Statistic",
    "Study",
    "Table",
    "aggregate",
    "print_report",
    "read_study",
    "to_csv",
    "to_markdown",
]
