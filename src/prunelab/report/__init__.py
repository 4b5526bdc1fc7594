"""Tables and the page of a study, from its records. Does not import torch."""

from prunelab.report.aggregate import Baseline, Report, Row, Table, aggregate
from prunelab.report.csv_table import to_csv
from prunelab.report.latex import to_latex
from prunelab.report.markdown import to_markdown
from prunelab.report.measures import Statistic
from prunelab.report.page import to_page
from prunelab.report.published import Published, PublishedPoint, find_published, read_published
from prunelab.report.read import Problem, Study, read_study
from prunelab.report.row_key import RowKey
from prunelab.report.table import print_report

__all__ = [
    "Baseline",
    "Problem",
    "Published",
    "PublishedPoint",
    "Report",
    "Row",
    "RowKey",
    "Statistic",
    "Study",
    "Table",
    "aggregate",
    "find_published",
    "print_report",
    "read_published",
    "read_study",
    "to_csv",
    "to_latex",
    "to_markdown",
    "to_page",
]
