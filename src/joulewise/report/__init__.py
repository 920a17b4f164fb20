"""Report: a comparison in, one page out that opens from disk and needs nothing else.

html         one HTML file: templates, figures in a script, written whole or not at all
page         the page of a comparison of networks
summary      the answer in a sentence, and the iso-accuracy table as rows of text
knob         the setting that a point is, in words
points       what is known at each simulated point, as numbers
split        where a network's energy goes
forecasts    predictions beside simulations, and who hurts most in a network
figures      the charts of what was simulated
forecast_figures   the charts of what was predicted
style        what the charts have in common
arms_summary       ways to train: the answer in a sentence, and rows of text
arms_figure        the chart of ways to train
arms_page          the page of a comparison of ways to train
provenance   what was run, in words: devices, networks, training, machine
"""

from joulewise.report.arms_page import render_arms as render_arms
from joulewise.report.arms_page import write_arms_report as write_arms_report
from joulewise.report.arms_summary import ArmRow as ArmRow
from joulewise.report.arms_summary import arm_rows as arm_rows
from joulewise.report.arms_summary import arms_answer as arms_answer
from joulewise.report.arms_summary import arms_knob as arms_knob
from joulewise.report.knob import title_of as title_of
from joulewise.report.page import render as render
from joulewise.report.page import write_report as write_report
from joulewise.report.summary import Answer as Answer
from joulewise.report.summary import IsoRow as IsoRow
from joulewise.report.summary import answer as answer
from joulewise.report.summary import iso_rows as iso_rows

__all__ = [
    "Answer",
    "ArmRow",
    "IsoRow",
    "answer",
    "arm_rows",
    "arms_answer",
    "arms_knob",
    "iso_rows",
    "render",
    "render_arms",
    "title_of",
    "write_arms_report",
    "write_report",
]
