"""What an allocation found, in words: every goal, shown or not."""

import pytest

from joulewise.allocation import EnergyAtGoal, Granularity
from joulewise.report import (
    allocation_answer,
    allocation_rows,
    goal_in_words,
    granularity_name,
    render_allocation,
)
from joulewise.report.allocation_summary import (
    attempt_cells,
    granularity_words,
    round_cells,
    tensor_shares,
)
from joulewise.study import CoDesignRecord, DesignRecord, RoundRecord
from report_records import allocation, allocation_record

ENERGY = {"goal": "EnergyGoal", "energy": 0.3}
ERROR = {"goal": "ErrorGoal", "mse": 0.25}
YIELD = {"goal": "YieldGoal", "accuracy": 0.97, "share": 0.9}


def with_last(**changes):
    first, last = allocation_record().allocations
    return allocation_record(first, last.model_copy(update=changes))


def test_says_what_is_saved_and_that_the_goal_was_shown_to_hold():
    record = allocation_record()
    said = allocation_answer(record).sentence
    saving = record.saving_at_goal(1)
    interval = f"[{100 * saving.low:.1f} to {100 * saving.high:.1f}]"
    assert said == (
        "A point for each tensor saves 70.0 % of the memory energy of net against a reliable "
        f"memory, and 40.0 % {interval} against one common point where both just meet the goal. "
        "Mean accuracy 97.50 % or more was shown to hold on 2 fresh chips, with 95 % confidence."
    )


def test_says_plainly_if_it_was_not_shown():
    said = allocation_answer(with_last(holds=False)).sentence
    assert said.startswith("NOT SHOWN to hold: mean accuracy 97.50 % or more, on 2 fresh chips")
    assert "needs 30.0 % of the energy" in said and "saves" not in said
    assert allocation_rows(with_last(holds=False))[1].holds == "NOT SHOWN"


def test_a_plan_that_needs_more_than_the_first_says_so():
    at_goal = EnergyAtGoal(energy=0.6, low=0.55, high=0.65)
    record = with_last(at_goal=at_goal)
    saving = record.saving_at_goal(1)
    ends = f"[{-100 * saving.high:.1f} to {-100 * saving.low:.1f}]"
    assert f"but needs 20.0 % {ends} more than one common" in allocation_answer(record).sentence
    assert allocation_rows(record)[1].at_goal == "-20.0 %"


def test_without_an_energy_at_the_goal_plans_are_compared_as_they_are():
    record = with_last(at_goal=None)
    assert "and 40.0 % against one common point. Mean" in allocation_answer(record).sentence
    row = allocation_rows(record)[1]
    assert (row.against_first, row.at_goal, row.at_goal_interval) == ("+40.0 %", "", "")


def test_one_allocation_is_compared_with_nothing():
    record = allocation_record(allocation([0.4, 0.2], 0.3))
    assert "against a reliable memory. Mean" in allocation_answer(record).sentence
    (row,) = allocation_rows(record)
    assert (row.of_reliable, row.against_first, row.at_goal) == ("30.0 %", "", "")


def test_an_energy_goal_says_what_is_reached_with_it():
    said = allocation_answer(with_last(goal=ENERGY, attempts=(), at_goal=None)).sentence
    assert said.startswith("With 30.0 % of the energy of a reliable memory, a point for each")
    assert said.count("a mean accuracy of 98.50 %") == 2
    below = allocation_answer(with_last(goal=ENERGY, holds=False)).sentence
    assert below.startswith("NOT SHOWN to hold: 30 % of the energy") and "needs 30.0 %" in below
    bare = allocation(0.4, 0.3, simulated=False, goal=ENERGY, holds=True)
    assert "a predicted output MSE of 0.2" in allocation_answer(allocation_record(bare)).sentence
    no_targets = allocation(0.4, 0.3, accuracy=(), goal=ENERGY)
    said = allocation_answer(allocation_record(no_targets)).sentence
    assert "a mean output MSE of 0.2 over 2 chips" in said


def test_what_was_only_predicted_is_said_to_be():
    found = allocation(0.4, 0.3, simulated=False, goal=ERROR, at_goal=None)
    said = allocation_answer(allocation_record(found)).sentence
    assert said.endswith("Output MSE 0.25 or less is predicted, not simulated.")
    (row,) = allocation_rows(allocation_record(found))
    assert (row.holds, row.chips, row.simulated_mse) == ("not simulated", "", "")
    lost = found.model_copy(update={"holds": False})
    assert "by prediction alone" in allocation_answer(allocation_record(lost)).sentence


@pytest.mark.parametrize(
    ("goal", "said", "bound"),
    [
        (YIELD, "90 % of chips with an accuracy of 97.00 % or more", "at least 97.80 %"),
        (ERROR, "output MSE 0.25 or less", "at most 0.978"),
        (ENERGY, "30 % of the energy of a reliable memory or less", "at least 97.80 %"),
    ],
)
def test_goals_in_words(goal, said, bound):
    assert goal_in_words(goal) == said
    found = allocation(0.4, 0.3, goal=goal)
    cells = attempt_cells(found, found.attempts[0])
    assert cells == ["30.0 %", "2, seeds 0 to 1", bound, "97.50 %", "yes", "this plan"]


@pytest.mark.parametrize(
    ("fields", "name", "words"),
    [
        ({"per": "network"}, "one point", "one common point"),
        ({"per": "network", "bit_planes": True}, "bit plane", "a point for each bit plane"),
        ({"per": "role"}, "role", "a point for each role"),
        ({"rails": 1}, "tensor, 1 rail", "a point for each tensor, on 1 rail"),
        ({"levels": (0.2, 0.4)}, "tensor, of 2 levels", "a point for each tensor, of 2 levels"),
    ],
)
def test_granularities_in_words(fields, name, words):
    granularity = Granularity(**fields)
    assert (granularity_name(granularity), granularity_words(granularity)) == (name, words)


def test_shares_are_of_what_they_say():
    record = allocation_record()
    first, second = tensor_shares(record, record.allocations[1])
    assert (first.points, second.points) == ((0.4,), (0.2,))
    assert first.of_reliable == pytest.approx(0.3) and first.energy_share == pytest.approx(0.5)
    assert first.error_share == pytest.approx(0.075 / 0.2)
    nothing = with_last(predicted_shift=0.0, predicted_variance={"a.weight": 0.0, "b:input": 0.0})
    assert tensor_shares(nothing, nothing.allocations[1])[0].error_share == 0.0


def test_more_attempts_are_told_of_and_which_one_it_is():
    found = allocation(0.4, 0.3)
    (held,) = found.attempts
    dearer = held.model_copy(update={"energy": 0.4, "seed": 2})
    found = found.model_copy(update={"attempts": (held, dearer)})
    said = allocation_answer(allocation_record(found)).details[-1]
    assert said.startswith("2 plans were tried") and said.endswith("the cheapest that held.")
    assert [attempt_cells(found, attempt)[-1] for attempt in found.attempts] == ["this plan", ""]
    lost = found.model_copy(update={"holds": False})
    assert allocation_answer(allocation_record(lost)).details[-1].endswith("this is the last.")


def test_a_co_design_is_against_the_network_as_it_was_given():
    plain = allocation_record()
    first, second = plain.allocations
    turns = [
        RoundRecord(training=None, training_energy=None, allocation=first, kept=True),
        RoundRecord(training=None, training_energy=0.4, allocation=second, kept=False),
    ]
    design = DesignRecord(
        given_accuracy=0.98,
        min_accuracy=0.975,
        rounds=tuple(turns),
        allocation=second,
    )
    record = CoDesignRecord(**dict(plain), design=design)
    said = allocation_answer(record).sentence
    assert said.startswith("A point for each tensor, trained for it, saves 70.0 %")
    assert "against the network as it was given where both" in said
    assert [row.granularity for row in allocation_rows(record)] == ["as given", "co-designed"]
    assert [cells[-1] for cells in round_cells(record)] == ["yes", "no"]
    assert round_cells(plain) == []
    page = render_allocation(record)
    assert "Training and allocation, in turns" in page and ">As given<" in page
    assert "Training and allocation, in turns" not in render_allocation(plain)
