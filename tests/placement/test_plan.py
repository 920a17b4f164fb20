"""Plan files: what is written is read, and what does not fit is refused by name."""

import json

import pytest
import torch
from torch import nn

from joulewise.devices import SRAM, Crossbar, Flip, law
from joulewise.errors import InputError, OperatingPointError
from joulewise.placement import PlanFile, place


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
    PlanFile.of(place(model(), weights=SRAM()), PLAN, {"command": "by hand"}).write(path)
    return path


def test_what_is_written_is_read(path):
    placement = place(model(), weights=SRAM())
    file = PlanFile.read(path)
    plan = file.plan_for(placement)
    assert plan["0.weight"] == 0.4
    torch.testing.assert_close(plan["2.weight"], PLAN["2.weight"], rtol=0, atol=0)
    assert file.note == {"command": "by hand"}
    assert file.is_for_weights_of(placement)


def test_points_for_channels_and_for_planes_of_channels(tmp_path):
    placement = place(model(), weights=SRAM())
    PlanFile.of(placement, {"0.weight": CHANNELS, "2.weight": BOTH}).write(tmp_path / "plan.json")
    assert '"point": [[0.3], [0.5], [0.9]]' in (tmp_path / "plan.json").read_text()
    plan = PlanFile.read(tmp_path / "plan.json").plan_for(placement)
    torch.testing.assert_close(plan["0.weight"], CHANNELS, rtol=0, atol=0)
    torch.testing.assert_close(plan["2.weight"], BOTH, rtol=0, atol=0)


def test_points_in_volts_are_read_as_they_were_written(tmp_path):
    memory = SRAM(law=law("stutz2021-14nm"), knob="v_dd")
    volts = [0.75, 0.8123, 0.9]
    plan = {"0.weight": torch.tensor(volts, dtype=torch.float64)[:, None], "2.weight": 0.8765}
    PlanFile.of(place(model(), weights=memory), plan).write(tmp_path / "plan.json")
    assert '"point": [[0.75], [0.8123], [0.9]]' in (tmp_path / "plan.json").read_text()
    again = PlanFile.read(tmp_path / "plan.json").plan_for(place(model(), weights=memory))
    assert again["2.weight"] == 0.8765
    assert torch.equal(again["0.weight"], plan["0.weight"])
    other = place(model(), weights=SRAM(law=law("stutz2021-14nm")))
    with pytest.raises(
        InputError, match="knob of the memory of 0.weight is 'eta'; allowed: 'v_dd'"
    ):
        PlanFile.read(tmp_path / "plan.json").plan_for(other)


@pytest.mark.parametrize(
    ("memory", "point", "said"),
    [
        (SRAM(), [[0.3], [0.5]], "the points of 0.weight is 2; allowed: 3, one for each output"),
        (SRAM(), [[0.3] * 7] * 3, r"eta is of shape \(3, 7\)"),
        (SRAM(), [[0.3], [0.5], [1.5]], "eta is 1.5"),
        (
            SRAM(),
            [[0.3], [0.5, 0.6], [0.7]],
            "0.weight in the plan is given rows of 1 and 2 numbers",
        ),
        (Crossbar(sigma=1e-6), [[2e-5]] * 4, "the points of 0.weight is 4; allowed: 3"),
    ],
)
def test_channels_that_do_not_fit_are_refused_by_name(tmp_path, memory, point, said):
    placement = place(model(), weights=memory)
    PlanFile.of(placement, placement.plan_at_most_reliable()).write(tmp_path / "plan.json")
    fields = json.loads((tmp_path / "plan.json").read_text())
    fields["tensors"][0]["point"] = point
    (tmp_path / "plan.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match=said):
        PlanFile.read(tmp_path / "plan.json").plan_for(placement)


def test_a_person_can_read_and_edit_it(path):
    lines = path.read_text().splitlines()
    (line,) = [line for line in lines if '"0.weight"' in line]
    path.write_text(path.read_text().replace(line, line.replace("0.4", "0.9")))
    assert PlanFile.read(path).plan_for(place(model(), weights=SRAM()))["0.weight"] == 0.9


def test_other_weights_are_told_apart(path):
    assert not PlanFile.read(path).is_for_weights_of(place(model(seed=1), weights=SRAM()))


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
        (lambda: place(model(), weights=Crossbar(sigma=1e-6)), "knob of the memory of 0.weight"),
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
        PlanFile.read(path).plan_for(placement())


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
        PlanFile.read(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        PlanFile.read(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be written"):
        PlanFile.of(place(model(), weights=SRAM()), PLAN).write(tmp_path / "none" / "plan.json")


def test_a_point_out_of_range_is_refused(path):
    fields = json.loads(path.read_text())
    fields["tensors"][0]["point"] = 1.5
    path.write_text(json.dumps(fields))
    with pytest.raises(OperatingPointError, match=r"eta is 1.5"):
        PlanFile.read(path).plan_for(place(model(), weights=SRAM()))


def test_a_device_that_is_not_listed_is_refused(path):
    fields = json.loads(path.read_text())
    fields["tensors"][0]["device"] = 3
    path.write_text(json.dumps(fields))
    with pytest.raises(InputError, match="the device of 0.weight in the plan is 3"):
        PlanFile.read(path).plan_for(place(model(), weights=SRAM()))


def test_a_tensor_that_is_named_twice_is_refused(path):
    fields = json.loads(path.read_text())
    fields["tensors"].append(fields["tensors"][0])
    path.write_text(json.dumps(fields))
    with pytest.raises(InputError, match="0.weight in the plan is named twice"):
        PlanFile.read(path).plan_for(place(model(), weights=SRAM()))
