"""Two processes that exchange gradients over gloo, against one that sees the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.optim import SGD

from ascents import METHODS, RHO, batch, closure_for, formula, loss_of, network, same_bits, values

STEPS, SHARE = 5, 4

# Each rank takes its share of every batch; `apart` keeps the first pass from being averaged.
RANK = """
import sys
from contextlib import nullcontext
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from ascents import METHODS, RHO, batch, closure_for, loss_of, network, values

rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
trained = {}
for method, (make, _) in METHODS.items():
    for apart in (False, True):
        model = DistributedDataParallel(network())
        optimizer = make(model.parameters(), SGD, lr=0.1, momentum=0.9, rho=RHO)
        for step in range(%(steps)d):
            inputs, targets = batch(size=2 * %(share)d, seed=10 + step)
            mine = slice(rank * %(share)d, (rank + 1) * %(share)d)
            inputs, targets = inputs[mine], targets[mine]
            if not apart:
                optimizer.step(closure_for(model, optimizer, inputs, targets))
                continue
            with model.no_sync():
                loss_of(model, inputs, targets).backward()
            with optimizer.ascent():
                loss_of(model, inputs, targets).backward()
            optimizer.step()
            optimizer.zero_grad()
        trained[method, apart] = values(model)
torch.save(trained, f"{folder}/{rank}.pt")
distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Parameters that both ranks trained, by method, averaged in the first pass or apart."""
    folder = tmp_path_factory.mktemp("ranks")
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK % {"steps": STEPS, "share": SHARE}, str(rank), str(folder)],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_both_ranks_hold_the_same_weights(trained, method, apart):
    assert same_bits(trained[0][method, apart], trained[1][method, apart])


@pytest.mark.parametrize("method", METHODS)
def test_averaged_it_is_one_process_on_the_whole_batch(trained, method):
    model = network()
    start = values(model)
    optimizer = METHODS[method][0](model.parameters(), SGD, lr=0.1, momentum=0.9, rho=RHO)
    for step in range(STEPS):
        optimizer.step(closure_for(model, optimizer, *batch(size=2 * SHARE, seed=10 + step)))
    for found, wanted, first in zip(trained[0][method, False], values(model), start, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
        assert (wanted - first).abs().max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_apart_each_rank_perturbs_by_its_own_part(trained, method):
    """The step's gradient is the mean of those at two points, one for each share."""
    make, rule = METHODS[method]
    model = network()
    params = list(model.parameters())
    optimizer = SGD(params, lr=0.1, momentum=0.9)
    for step in range(STEPS):
        inputs, targets = batch(size=2 * SHARE, seed=10 + step)
        optimizer.zero_grad()
        for mine in (slice(None, SHARE), slice(SHARE, None)):
            here = values(model)
            loss = loss_of(model, inputs[mine], targets[mine])
            eps = formula(rule, params, torch.autograd.grad(loss, params))
            with torch.no_grad():
                for w, e in zip(params, eps, strict=True):
                    w.add_(e)
            (loss_of(model, inputs[mine], targets[mine]) / 2).backward()
            with torch.no_grad():
                for w, own in zip(params, here, strict=True):
                    w.copy_(own)
        optimizer.step()
    together = trained[0][method, False]
    for found, wanted, other in zip(trained[0][method, True], params, together, strict=True):
        torch.testing.assert_close(found, wanted.detach(), rtol=0, atol=1e-10)
        assert (found - other).abs().max() > 1e-5
