import torch

from joulewise.models import Transformer


def test_tokens_and_attention():
    model = Transformer((3, 32, 32), 10, width=16, depth=2).eval()
    assert model.positions.shape == (64, 16)
    with torch.no_grad():
        inputs = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        before = model(inputs)
        # What one patch holds reaches the output only together with all others.
        model.positions[0] = torch.linspace(-1, 1, 16)
        assert not torch.allclose(model(inputs), before)
