import pytest

from joulewise.errors import InputError
from joulewise.training import Ramp


def test_from_start_to_stop_exactly_and_no_further():
    ramp = Ramp(start=1.0, stop=0.3, steps=10)
    assert (ramp(0), ramp(10), ramp(11), ramp(10**9)) == (1.0, 0.3, 0.3, 0.3)
    assert ramp(5) == pytest.approx(0.65)
    assert all(ramp(k) > ramp(k + 1) for k in range(10))


@pytest.mark.parametrize("steps", [0, -1, 2.5, float("nan")])
def test_steps_are_a_whole_number(steps):
    with pytest.raises(InputError, match="steps is"):
        Ramp(start=1.0, stop=0.5, steps=steps)
