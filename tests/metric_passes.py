"""Random outputs and classes, and the value of a metric over some batches."""

import torch


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classes(*shape, of=10, seed=1):
    return torch.randint(of, shape, generator=torch.Generator().manual_seed(seed))


def passed(metric, *batches):
    """Value and failure of a pass."""
    accumulator = metric.new()
    for outputs, targets in batches:
        accumulator.update(outputs, targets)
    return accumulator.compute(), accumulator.failure
