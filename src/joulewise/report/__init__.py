"""Report: a study in, one page out that opens from disk and needs nothing else.

page    the page, one HTML file
blocks  its parts, a file each
view    a study as its blocks look at it
tables  tables that terminal, pages and notebooks share
charts  charts as Vega-Lite
theme   the look of charts
"""

from joulewise.report.page import render_study, write_study
from joulewise.report.tables import Table
from joulewise.report.view import View

__all__ = ["Table", "View", "render_study", "write_study"]
