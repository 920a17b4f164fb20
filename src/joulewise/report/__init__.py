"""Report: a comparison in, one page out that opens from disk and needs nothing else.

page         the HTML page: rendered, and written whole or not at all
summary      the answer in a sentence, and the iso-accuracy table as rows of text
knob         the setting that a point is, in words
points       what is known at each simulated point, as numbers
split        where a network's energy goes
forecasts    predictions beside simulations, and who hurts most in a network
figures      the charts of what was simulated
forecast_figures   the charts of what was predicted
style        what the charts have in common
provenance   what was run, in words: devices, networks, training, machine
"""

from joulewise.report.knob import title_of as title_of
from joulewise.report.page import render as render
from joulewise.report.page import write_report as write_report
from joulewise.report.summary import Answer as Answer
from joulewise.report.summary import IsoRow as IsoRow
from joulewise.report.summary import answer as answer
from joulewise.report.summary import iso_rows as iso_rows

__all__ = ["Answer", "IsoRow", "answer", "iso_rows", "render", "title_of", "write_report"]
