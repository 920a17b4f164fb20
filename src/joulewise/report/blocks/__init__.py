"""Blocks of a page, a file each: from a study to a title, a sentence, tables and charts.

block             the interface
answer            the question, and the least energy within each drop
best_by_energy    the best network at each energy
accuracy_energy   the metric against energy
language_model    perplexity, divergence, joules per token and generated text
front             Pareto fronts
plan              operating points along the network
savings           savings of plans, against every reference
prediction_check  predictions beside simulations
training_methods  energy by training method
energy_breakdown  energy by where it is spent
provenance        data, seeds, versions and machines
"""

from joulewise.report.blocks.accuracy_energy import accuracy_energy
from joulewise.report.blocks.answer import answer
from joulewise.report.blocks.best_by_energy import best_by_energy
from joulewise.report.blocks.block import Block
from joulewise.report.blocks.energy_breakdown import energy_breakdown
from joulewise.report.blocks.front import front
from joulewise.report.blocks.language_model import language_model
from joulewise.report.blocks.plan import plan
from joulewise.report.blocks.prediction_check import prediction_check
from joulewise.report.blocks.provenance import provenance
from joulewise.report.blocks.savings import savings
from joulewise.report.blocks.training_methods import training_methods
from joulewise.report.view import View

__all__ = ["BLOCKS", "Block", "blocks_of"]

BLOCKS = (
    answer,
    best_by_energy,
    accuracy_energy,
    language_model,
    front,
    plan,
    savings,
    training_methods,
    prediction_check,
    energy_breakdown,
    provenance,
)
"""The functions that make the blocks of a page, in order; each gives None where it has nothing."""


def blocks_of(view: View) -> list[Block]:
    """The blocks of a study; without a question, those of goals or fronts come first."""
    order = sorted(BLOCKS, key=lambda make: make not in (front, plan, savings))
    order = list(BLOCKS) if view.file.question else order
    return [block for make in order if (block := make(view)) is not None]
