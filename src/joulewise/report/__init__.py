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
allocation_summary what an allocation found: sentences, and rows of text
allocation_figure  operating points, energy and error along the network
allocation_page    the page of allocations of one network
fronts_summary     what fronts show: sentences, and rows of text
fronts_figure      the charts of fronts
fronts_page        the page of fronts
study_page   the page of a study
view         a study as its blocks look at it
tables       tables that terminal, pages and notebooks share
charts       charts as Vega-Lite
theme        the look of charts
provenance   what was run, in words: devices, networks, training, machine
"""

from joulewise.report.allocation_page import render_allocation as render_allocation
from joulewise.report.allocation_page import write_allocation_report as write_allocation_report
from joulewise.report.allocation_summary import AllocationRow as AllocationRow
from joulewise.report.allocation_summary import allocation_answer as allocation_answer
from joulewise.report.allocation_summary import allocation_name as allocation_name
from joulewise.report.allocation_summary import allocation_rows as allocation_rows
from joulewise.report.allocation_summary import goal_in_words as goal_in_words
from joulewise.report.allocation_summary import granularity_name as granularity_name
from joulewise.report.allocation_summary import round_cells as round_cells
from joulewise.report.arms_page import render_arms as render_arms
from joulewise.report.arms_page import write_arms_report as write_arms_report
from joulewise.report.arms_summary import ArmRow as ArmRow
from joulewise.report.arms_summary import arm_rows as arm_rows
from joulewise.report.arms_summary import arms_answer as arms_answer
from joulewise.report.arms_summary import arms_knob as arms_knob
from joulewise.report.fronts_page import render_fronts as render_fronts
from joulewise.report.fronts_page import write_fronts_report as write_fronts_report
from joulewise.report.fronts_summary import FrontRow as FrontRow
from joulewise.report.fronts_summary import front_rows as front_rows
from joulewise.report.fronts_summary import fronts_answer as fronts_answer
from joulewise.report.knob import title_of as title_of
from joulewise.report.page import render as render
from joulewise.report.page import write_report as write_report
from joulewise.report.summary import Answer as Answer
from joulewise.report.summary import IsoRow as IsoRow
from joulewise.report.summary import answer as answer
from joulewise.report.summary import iso_rows as iso_rows

__all__ = [
    "AllocationRow",
    "Answer",
    "ArmRow",
    "FrontRow",
    "IsoRow",
    "allocation_answer",
    "allocation_name",
    "allocation_rows",
    "answer",
    "arm_rows",
    "arms_answer",
    "arms_knob",
    "front_rows",
    "fronts_answer",
    "goal_in_words",
    "granularity_name",
    "iso_rows",
    "render",
    "render_allocation",
    "render_arms",
    "render_fronts",
    "round_cells",
    "title_of",
    "write_allocation_report",
    "write_arms_report",
    "write_fronts_report",
    "write_report",
]
