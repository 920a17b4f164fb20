import csv
import json

import pytest
import torch
from torch import nn

from joulewise.devices import SRAM, law
from joulewise.errors import InputError, TableError
from joulewise.mappers import AccessRow, AccessTable
from joulewise.placement import Plan, energy, place, plan_by_component, with_accesses

BIT_J = 20e-12 / 64


@pytest.fixture
def placement():
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    return place(net, weights=SRAM(bits=8), example_inputs=torch.ones(5, 6))


def row(layer, count, joules, tensor="weights", action="read", component="spad"):
    own = {"layer": layer, "tensor": tensor, "component": component, "action": action}
    return AccessRow(**own, count=count, joules=joules)


TABLE = AccessTable(
    rows=(
        row("fc1", 96, 40e-12),
        row("fc1", 24, 20e-12, action="write"),
        row("fc1", 12, 1e-12, tensor="outputs"),
        row("fc2", 12, 5e-12),
        row("fc2", 12, 5e-9, component="dram"),
    )
)
NAMES = {"fc1": "0", "fc2": "2"}


def test_the_mappers_joules_scale_with_the_plan(placement, tmp_path):
    planes = torch.arange(1, 9, dtype=torch.float64) / 8
    plan = Plan({"0.weight": {"eta": 0.25}, "2.weight": {"eta": planes}})
    found = plan_by_component(placement, plan, TABLE, component="spad", names=NAMES)
    first, second = found.rows
    assert (first.layer, first.tensor, first.component) == ("fc1", "weights", "spad")
    assert (first.knob, first.point, first.count) == ("eta", 0.25, 120)
    assert first.reliable_j == pytest.approx(60e-12) and first.joules == pytest.approx(15e-12)
    assert (second.knob, second.point, second.count) == ("eta", tuple(planes.tolist()), 12)
    # The mean of the planes.
    assert second.joules == pytest.approx(5e-12 * 4.5 / 8)
    assert found.by_component == [
        {
            "component": "spad",
            "reliable_j": pytest.approx(65e-12),
            "joules": pytest.approx(15e-12 + 5e-12 * 4.5 / 8),
            "saved_j": pytest.approx(45e-12 + 5e-12 * 3.5 / 8),
        }
    ]
    assert repr(found).splitlines() == [
        "Plan of 2 tensors by component",
        "  spad  17.8 pJ of 65 pJ, 72.6 % saved",
    ]
    assert json.loads(json.dumps(found.to_dict()))["rows"][1]["point"] == planes.tolist()
    found.to_csv(tmp_path / "plan.csv")
    with (tmp_path / "plan.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert list(cells[0]) == list(found.to_dict()["rows"][0])
    assert json.loads(cells[1]["point"]) == planes.tolist()
    assert float(cells[0]["joules"]) == first.joules
    with pytest.raises(InputError, match="cannot be written"):
        found.to_csv(tmp_path / "nowhere" / "plan.csv")


def test_tensors_may_lie_in_different_components(placement):
    table = TABLE.filter(component="spad", layer="fc1").rows
    table = AccessTable(rows=(*table, *TABLE.filter(component="dram").rows))
    found = plan_by_component(placement, {"eta": 0.5}, table, names=NAMES)
    assert [one["component"] for one in found.by_component] == ["spad", "dram"]
    assert [one["saved_j"] for one in found.by_component] == pytest.approx([30e-12, 2.5e-9])


def test_without_joules_the_devices_prices_hold(placement, tmp_path):
    rows = [row("0.weight", 48, None), row("0.weight", 24, None, action="write")]
    table = AccessTable(rows=tuple(rows))
    (one,) = plan_by_component(placement, {"eta": 0.5}, table).rows
    assert one.reliable_j == pytest.approx(72 * 8 * BIT_J)
    spent = energy(with_accesses(placement, table), at={"eta": 0.5})
    assert one.joules == pytest.approx(float(spent.memory_j["0.weight"]), rel=1e-12)
    (tmp_path / "t.csv").write_text("name,reads,writes\n0.weight,48,24\n")
    (again,) = plan_by_component(placement, {"eta": 0.5}, tmp_path / "t.csv").rows
    assert (again.joules, again.reliable_j, again.count) == (one.joules, one.reliable_j, 72)
    none = AccessTable(rows=(row("0.weight", 0, 0.0),))
    (idle,) = plan_by_component(placement, {"eta": 0.5}, none).rows
    assert (idle.joules, idle.reliable_j) == (0, 0)
    assert "0.0 % saved" in repr(plan_by_component(placement, {"eta": 0.5}, none))


def test_points_are_in_volts_where_the_memory_speaks_volts():
    stutz = law("stutz2021-14nm")
    net = nn.Linear(6, 4)
    placement = place(net, weights=SRAM(law=stutz, knob="v_dd"), example_inputs=torch.ones(5, 6))
    table = AccessTable(rows=(row("weight", 24, 1e-9),))
    plan = placement.plan({"v_dd": 0.8})
    (one,) = plan_by_component(placement, plan, table).rows
    expected = energy(placement, at=plan).normalised
    assert (one.knob, one.point) == ("v_dd", 0.8)
    assert one.joules == pytest.approx(1e-9 * expected, rel=1e-12)


def test_what_does_not_fit_is_refused(placement):
    with pytest.raises(TableError, match="component is None; allowed: the memory that 2.weight"):
        plan_by_component(placement, {"eta": 0.5}, TABLE, names=NAMES)
    with pytest.raises(InputError, match="2.weight is placed here, and the plan has no point"):
        plan = Plan({"0.weight": {"eta": 0.5}})
        plan_by_component(placement, plan, TABLE, component="spad", names=NAMES)
    untraced = place(nn.Linear(6, 4), weights=SRAM())
    with pytest.raises(InputError, match="accesses need a traced placement"):
        plan_by_component(untraced, {"eta": 0.5}, TABLE)
