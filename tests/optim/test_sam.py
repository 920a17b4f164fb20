import torch
from torch import nn
from torch.optim import SGD

from ascents import moves
from joulewise.optim import SAM


def test_every_tensor_moves_along_its_gradient_by_one_factor():
    params = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(3))]
    params[0].grad = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    params[1].grad = torch.tensor([5.0, 3.0, 0.0])
    found = moves(SAM(params, SGD, lr=0.1, rho=8.0))  # the gradient is 8 long
    assert torch.equal(found[0], params[0].new_tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert torch.equal(found[1], params[1].new_tensor([5.0, 3.0, 0.0]))


def test_rho_by_default():
    assert SAM([nn.Parameter(torch.zeros(1))], SGD, lr=0.1).param_groups[0]["rho"] == 0.05
