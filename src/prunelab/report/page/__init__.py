"""A report as one self-contained HTML page."""

from prunelab.report.page.document import to_page

__all__ = ["to_page"]
