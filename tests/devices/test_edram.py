import pytest
from scipy import stats

from contracts import check_device
from joulewise.devices import EDRAM, Retention, Traffic
from joulewise.errors import InputError

RETENTION = Retention(median_s=1e-3, log_std=0.5, source="made up")


@pytest.mark.parametrize("lifetime", [1e-4, 1.0])
def test_rates_are_those_of_the_age_at_a_read(lifetime):
    memory = EDRAM(retention=RETENTION, lifetime_s=lifetime)
    for interval in (5e-5, 5e-4):
        expected = stats.lognorm.cdf(min(interval, lifetime), s=0.5, scale=1e-3)
        assert float(memory.bit_error_rate(interval)) == pytest.approx(expected, rel=1e-9)


def test_data_that_live_shorter_than_the_interval_are_not_refreshed():
    memory = EDRAM(lifetime_s=1e-4, access_j=1e-13, refresh_j=1e-12, latency_s=0.01)
    traffic = Traffic(words=100, reads=200, writes=100)
    accesses = 8 * 300 * 1e-13
    assert float(memory.energy(traffic, 2e-4)) == pytest.approx(accesses)
    refreshes = 8 * 100 * 1e-12 * 0.01 / 5e-5
    assert float(memory.energy(traffic, 5e-5)) == pytest.approx(accesses + refreshes)


def test_contract():
    check_device(EDRAM(), [1e-4, 3e-4, 8e-4])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lifetime_s": 0.0}, "^lifetime_s is 0; allowed: above 0"),
        ({"refresh_range": (0.0, 1.0)}, "^refresh_range is 0; allowed: above 0"),
        ({"refresh_j": -1.0}, "^refresh_j is -1; allowed: 0 to 1"),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(InputError, match=message):
        EDRAM(**fields)
