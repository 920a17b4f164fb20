import math

import pytest

from joulewise.devices import HOROWITZ_INT8, Arithmetic
from joulewise.errors import InputError


def test_the_cited_figure():
    assert HOROWITZ_INT8.mac_j == pytest.approx(0.3e-12)
    assert "Horowitz, ISSCC 2014" in HOROWITZ_INT8.describe()["source"]


@pytest.mark.parametrize("bad", [-1e-12, math.nan, 2.0])
def test_refuses_a_price_out_of_range(bad):
    with pytest.raises(InputError, match=r"^mac_j is .*; allowed: 0 to 1$"):
        Arithmetic(mac_j=bad, source="")
