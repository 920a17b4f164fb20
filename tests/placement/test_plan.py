"""Plans: values, and files that are read as written and refused by name where they do not fit."""

import json

import pytest
import torch
from torch import nn

from joulewise.devices import SRAM, Crossbar, Flip, VoltageTable, law
from joulewise.errors import InputError, OperatingPointError
from joulewise.placement import Plan, place


def model(width=3, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # noqa: TID251
        return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))


PLAN = {"0.weight": 0.4, "2.weight": torch.linspace(0.1, 0.8, 8, dtype=torch.float64)}


CHANNELS = torch.tensor([[0.3], [0.5], [0.9]], dtype=torch.float64)
BOTH = torch.linspace(0.1, 0.9, 16, dtype=torch.float64).reshape(2, 8)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "plan.json"
    Plan.chosen_for(place(model(), weights=SRAM()), PLAN, {"command": "by hand"}).write(path)
    return path


def test_what_is_written_is_read(path):
    placement = place(model(), weights=SRAM())
    plan = Plan.read(path)
    points = placement.points(plan)
    assert plan["0.weight"] == {"eta": 0.4}
    assert points["0.weight"] == 0.4
    torch.testing.assert_close(points["2.weight"], PLAN["2.weight"], rtol=0, atol=0)
    assert plan.note == {"command": "by hand"}
    assert plan.is_for_weights_of(placement)


def test_points_for_channels_and_for_planes_of_channels(tmp_path):
    placement = place(model(), weights=SRAM())
    points = {"0.weight": CHANNELS, "2.weight": BOTH}
    Plan.chosen_for(placement, points).write(tmp_path / "plan.json")
    assert '"point": [[0.3], [0.5], [0.9]]' in (tmp_path / "plan.json").read_text()
    plan = placement.points(Plan.read(tmp_path / "plan.json"))
    torch.testing.assert_close(plan["0.weight"], CHANNELS, rtol=0, atol=0)
    torch.testing.assert_close(plan["2.weight"], BOTH, rtol=0, atol=0)


def test_points_in_volts_are_read_as_they_were_written(tmp_path):
    memory = SRAM(law=law("stutz2021-14nm"), knob="v_dd")
    volts = [0.75, 0.8123, 0.9]
    points = {"0.weight": torch.tensor(volts, dtype=torch.float64)[:, None], "2.weight": 0.8765}
    Plan.chosen_for(place(model(), weights=memory), points).write(tmp_path / "plan.json")
    assert '"point": [[0.75], [0.8123], [0.9]]' in (tmp_path / "plan.json").read_text()
    plan = Plan.read(tmp_path / "plan.json")
    again = place(model(), weights=memory).points(plan)
    assert again["2.weight"] == 0.8765
    assert torch.equal(again["0.weight"], points["0.weight"])
    # The same memory with another knob takes it too, converted.
    other = SRAM(law=law("stutz2021-14nm"))
    assert place(model(), weights=other).points(plan)["2.weight"] == other.point(v_dd=0.8765)


@pytest.mark.parametrize(
    ("memory", "point", "said"),
    [
        (SRAM(), [[0.3], [0.5]], "the points of 0.weight is 2; allowed: 3, one for each output"),
        (SRAM(), [[0.3] * 7] * 3, r"eta is of shape \(3, 7\)"),
        (SRAM(), [[0.3], [0.5], [1.5]], "eta is 1.5"),
        (
            SRAM(),
            [[0.3], [0.5, 0.6], [0.7]],
            "the plan for 0.weight is .*0.5, 0.6.*; allowed: numbers, as many in each row",
        ),
        (Crossbar(sigma=1e-6), [[2e-5]] * 4, "the points of 0.weight is 4; allowed: 3"),
    ],
)
def test_channels_that_do_not_fit_are_refused_by_name(tmp_path, memory, point, said):
    placement = place(model(), weights=memory)
    placement.plan(placement.most_reliable()).write(tmp_path / "plan.json")
    fields = json.loads((tmp_path / "plan.json").read_text())
    fields["tensors"][0]["point"] = point
    (tmp_path / "plan.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match=said):
        placement.points(Plan.read(tmp_path / "plan.json"))


def test_a_person_can_read_and_edit_it(path):
    lines = path.read_text().splitlines()
    (line,) = [line for line in lines if '"0.weight"' in line]
    path.write_text(path.read_text().replace(line, line.replace("0.4", "0.9")))
    assert place(model(), weights=SRAM()).points(Plan.read(path))["0.weight"] == 0.9


def test_other_weights_are_told_apart(path):
    assert not Plan.read(path).is_for_weights_of(place(model(seed=1), weights=SRAM()))


class Renamed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 2)


@pytest.mark.parametrize(
    ("placement", "said"),
    [
        (lambda: place(model(5), weights=SRAM()), r"the shape of 0.weight is \(5, 4\)"),
        (lambda: place(Renamed(), weights=SRAM()), "a point for 0.weight, which is not placed"),
        (lambda: place(model(), weights=SRAM(bits=6)), "bits of the memory of 0.weight is 6"),
        (lambda: place(model(), weights=SRAM(fault=Flip())), "fault of the memory of 0.weight"),
        (lambda: place(model(), weights=Crossbar(sigma=1e-6)), "device of the memory of 0.weight"),
        (
            lambda: place(model(), weights=SRAM(), include=["0.weight"]),
            "a point for 2.weight, which is not placed",
        ),
        (
            lambda: place(model(), weights=SRAM(), include=["*.weight", "0.bias"]),
            "0.bias is placed here",
        ),
    ],
)
def test_another_network_or_memory_is_refused_by_name(path, placement, said):
    with pytest.raises(InputError, match=said):
        placement().points(Plan.read(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no plan"),
        ("{", "is no plan"),
        ("[]", "is no plan"),
        ('{"joulewise_plan": 2, "devices": [], "tensors": [], "weights": ""}', "joulewise_plan: 1"),
        ('{"joulewise_plan": 1, "devices": [], "weights": ""}', "tensors: Field required"),
    ],
)
def test_what_is_no_plan_is_refused(tmp_path, text, said):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        Plan.read(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Plan.read(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be written"):
        Plan.chosen_for(place(model(), weights=SRAM()), PLAN).write(tmp_path / "no" / "plan.json")


def test_a_point_out_of_range_is_refused(path):
    fields = json.loads(path.read_text())
    fields["tensors"][0]["point"] = 1.5
    path.write_text(json.dumps(fields))
    with pytest.raises(OperatingPointError, match=r"eta is 1.5"):
        place(model(), weights=SRAM()).points(Plan.read(path))


def test_a_device_that_is_not_listed_is_refused(path):
    fields = json.loads(path.read_text())
    fields["tensors"][0]["device"] = 3
    path.write_text(json.dumps(fields))
    with pytest.raises(InputError, match="the device of 0.weight in the plan is 3"):
        place(model(), weights=SRAM()).points(Plan.read(path))


def test_a_tensor_that_is_named_twice_is_refused(path):
    fields = json.loads(path.read_text())
    fields["tensors"].append(fields["tensors"][0])
    path.write_text(json.dumps(fields))
    with pytest.raises(InputError, match="0.weight in the plan is named twice"):
        place(model(), weights=SRAM()).points(Plan.read(path))


def test_a_plan_is_a_mapping_compared_by_identity():
    plan = Plan({"a": {"eta": 0.5}, "b": {"g_max": [[1e-5], [2e-5]]}})
    assert list(plan) == ["a", "b"]
    assert len(plan) == 2
    assert plan.to_dict() == {"a": {"eta": 0.5}, "b": {"g_max": ((1e-5,), (2e-5,))}}
    assert plan != Plan(plan)
    assert {plan: 1}[plan] == 1
    assert repr(plan).splitlines()[1:] == ["  a: eta 0.5", "  b: g_max 1e-05 to 2e-05 (2x1 values)"]


def test_a_plan_keeps_the_knob_and_the_values_that_were_given(tmp_path):
    table = tmp_path / "law.csv"
    table.write_text("v_dd,energy_per_bit_j,bit_error_rate\n0.5,4e-13,1e-3\n0.9,1e-12,1e-7\n")
    placement = place(model(), weights=SRAM(law=VoltageTable.from_csv(table)))
    volts = placement.plan({"v_dd": 0.7})
    assert volts["0.weight"] == {"v_dd": 0.7}
    volts.write(tmp_path / "plan.json")
    again = Plan.read(tmp_path / "plan.json")
    assert again["2.weight"] == {"v_dd": 0.7}
    assert placement.points(again) == placement.points(volts) == placement.points({"v_dd": 0.7})


def test_gradients_flow_through_a_plan():
    eta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    points = place(model(), weights=SRAM()).points(Plan({n: {"eta": eta} for n in PLAN}))
    (gradient,) = torch.autograd.grad(points["0.weight"] + points["2.weight"], eta)
    assert gradient == 2


@pytest.mark.parametrize("settings", [0.5, {"a": 0.5}, {"a": {}}, {"a": {"eta": 1, "v_dd": 1}}])
def test_settings_that_are_not_one_knob_for_each_tensor_are_refused(settings):
    with pytest.raises(InputError, match="the settings of a plan is|the plan for a is"):
        Plan(settings)


def test_a_plan_made_by_hand_is_written_once_it_is_for_a_placement(tmp_path):
    plan = Plan({name: {"eta": 0.5} for name in PLAN})
    with pytest.raises(
        InputError, match=r"made by hand, for no placement; allowed: placement.plan"
    ):
        plan.write(tmp_path / "plan.json")
    place(model(), weights=SRAM()).plan(plan).write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json").weights is None


def test_two_memories_take_a_knob_each():
    x = torch.ones(2, 4)
    both = place(model(), weights=Crossbar(sigma=1e-6), activations=SRAM(), example_inputs=x)
    points = both.points({"g_max": 2e-5, "eta": 0.5})
    assert points["0.weight"] == 2e-5
    assert points["0:input"] == 0.5
    with pytest.raises(OperatingPointError, match="for 0:input on a SRAM, is g_max; allowed"):
        both.points({"g_max": 2e-5})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"a": {1: 0.5}}, "the plan for a is {1: 0.5}; allowed: one knob"),
        ({"a": {"eta": [[1, 2], [3]]}}, "the plan for a is .*; allowed: numbers, as many in each"),
    ],
)
def test_settings_of_the_wrong_kind_are_refused(settings, said):
    with pytest.raises(InputError, match=said):
        Plan(settings)


def test_any_plan_has_a_text():
    odd = {"a": {"eta": None}, "b": {"eta": torch.zeros(0)}, "c": {"eta": 1}, "d": {"eta": "x"}}
    assert len(repr(Plan(odd)).splitlines()) == 5
