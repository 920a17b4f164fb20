import pytest
from pydantic import ValidationError

from joulewise.data import load_digits
from joulewise.devices import Correlated, Flip, Independent, Mask, Measured, Stuck, VoltageTable
from joulewise.errors import TableError
from joulewise.models import build, save_weights
from joulewise.study import MemorySpec, NetworkSpec, PlacementSpec


def test_words_become_devices(tmp_path):
    assert MemorySpec().build().fault == Mask()
    assert MemorySpec().build().fault_map == Independent()
    assert MemorySpec(fault="flip", zero_to_one=0.5).build().fault == Flip(zero_to_one=0.5)
    assert MemorySpec(fault="stuck", stuck_at_one=1.0).build().fault == Stuck(at_one=1.0)
    assert MemorySpec(row=0.2).build().fault_map == Correlated(row=0.2)
    assert isinstance(MemorySpec(profile="stutz2021-14nm").build().law, VoltageTable)
    cells = tmp_path / "map.csv"
    cells.write_text("row,column,bit_error_rate\n1,2,0.01\n")
    measured = MemorySpec(fault_map=cells, map_rows=4, map_columns=8).build().fault_map
    assert isinstance(measured, Measured)
    assert MemorySpec(bits=4).build(0).channel_dim == 0


def test_unknown_words_are_refused():
    with pytest.raises(ValidationError):
        MemorySpec(device="dram")
    with pytest.raises(ValidationError):
        MemorySpec(colour="red")
    with pytest.raises(TableError, match="profile is 'dram'"):
        MemorySpec(profile="dram").build()


@pytest.mark.parametrize(
    ("store", "roles"),
    [("weights", {"weight"}), ("activations", {"activation"}), ("both", {"weight", "activation"})],
)
def test_networks_are_placed_as_told(tmp_path, store, roles):
    digits = load_digits()
    path = tmp_path / "fine.safetensors"
    save_weights(build("cnn", digits.input_shape, 10, seed=5), path, {})
    spec = NetworkSpec(model="cnn", weights=path)
    contender = spec.place(digits, PlacementSpec(store=store, fold_batchnorm=store == "both"))
    assert contender.name == "fine"
    assert contender.training is None
    assert {placed.role for placed in contender.placement.placed} == roles
    assert contender.placement.traced
