import pytest
import torch

from joulewise.devices import SRAM, Device


def test_a_device_that_does_not_hold_activations_says_so():
    with pytest.raises(NotImplementedError, match="^SRAM does not hold activations$"):
        Device.round_trip(SRAM(), torch.zeros(1, 2), 0.5, None, None)
