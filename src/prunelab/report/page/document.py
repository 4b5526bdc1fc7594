"""Assembles the page from its template, style, scripts, the plotting library and its content."""

from __future__ import annotations

import html
import json
from importlib.resources import files

import plotly.offline

from prunelab.report.aggregate import Report
from prunelab.report.page.content import content_of
from prunelab.report.quantities import one_line

SCRIPTS = ("format.js", "filters.js", "table.js", "figures.js", "section.js", "start.js")


def to_page(report: Report, study: str) -> str:
    """The report as a page that needs neither a network connection nor another file.

    ``study`` is the folder of the records as written by the user, for the commands that repeat a run.
    """
    parts = {
        "TITLE": html.escape(one_line(report.study)),
        "STYLE": _file("page.css"),
        "CONTENT": _embedded(content_of(report, study)),
        "SCRIPT": "\n".join(map(_file, SCRIPTS)),
        "PLOTLY": plotly.offline.get_plotlyjs(),
    }
    page = _file("page.html")
    for (
        name,
        text,
    ) in parts.items():  # the largest is inserted last, so that it is not searched for placeholders
        before, _, after = page.partition(f"@{name}@")
        page = before + text + after
    return page


def _file(name: str) -> str:
    return (files("prunelab.report.page") / name).read_text(encoding="utf-8")


def _embedded(content: object) -> str:
    """JSON that a browser cannot interpret as markup."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
