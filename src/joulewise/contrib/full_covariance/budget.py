"""What covariances take: known before the first one is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import Any

from torch import Tensor, fx

from joulewise.contrib.full_covariance.network import Network, Step, function_of
from joulewise.contrib.full_covariance.operation import replaced
from joulewise.errors import ModelError
from joulewise.user_code import cause_of

__all__ = ["Budget", "budget"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Numbers in the covariances of one sample.

    Args:
        peak: At the operation that holds most of them.
        total: Of all operations: what a pass with gradients keeps.
        at: The name of that operation.
        size: Numbers in its output.
    """

    peak: int
    total: int
    at: str
    size: int


def budget(network: Network, arguments: Mapping[fx.Node, Any]) -> Budget:
    """Run the network on one sample without noise, and count.

    Args:
        network: The traced network.
        arguments: What each placeholder is given.

    Returns:
        The counts, for rules that make a covariance of their own only where sizes differ.
    """
    env: dict[fx.Node, Any] = dict(arguments)
    live: dict[fx.Node, int] = {}  # what varies and is still needed, and its size
    worst, total = Budget(peak=0, total=0, at="the model", size=0), 0
    for step in network.steps:
        sources = [node for node in step.node.all_input_nodes if node in live]
        varies = bool(step.weights or step.stored or sources)
        result = env[step.node] = _evaluate(network, step, env)
        if step.node.op == "output":
            break
        size = result[0].numel() if varies and isinstance(result, Tensor) else 0
        held = _held(live, sources, [n for n in step.last_use_of if n in live], size)
        if size:
            live[step.node] = size
        for gone in step.last_use_of:
            live.pop(gone, None)
            env.pop(gone, None)
        total += size * sum(live.values())
        if held > worst.peak:
            worst = Budget(peak=held, total=0, at=step.name, size=size)
    return replace(worst, total=total)


def _held(
    live: Mapping[fx.Node, int], sources: list[fx.Node], dying: list[fx.Node], size: int
) -> int:
    """Numbers in covariances while one operation makes an output of ``size`` numbers."""
    staying = [n for node, n in live.items() if node not in dying]
    if len(sources) == 1 and sources == dying:
        # Rows first, then columns, each in place where the output is not larger.
        own = live[sources[0]]
        work = own**2 + (size**2 if own > size else 0)
        work = work if own >= size else size * (own + size)
        return _pairs(staying) + max(own, size) * sum(staying) + work
    return _pairs(live.values()) + size * (size + sum(staying))


def _pairs(sizes: Iterable[int]) -> int:
    return sum(a * b for a, b in combinations_with_replacement(list(sizes), 2))


def _evaluate(network: Network, step: Step, env: Mapping[fx.Node, Any]) -> Any:
    """One step without noise.

    Raises:
        ModelError: if it fails.
    """
    node = step.node
    if node.op in ("placeholder", "output"):
        return env.get(node)
    if node.op == "get_attr":
        return network.constant(str(node.target))
    args, kwargs = replaced(
        (node.args, node.kwargs), lambda a: env[a] if isinstance(a, fx.Node) else a
    )
    try:
        return function_of(step)(*args, **kwargs)
    except Exception as error:  # a user's layer
        raise ModelError(f"{step.name} fails on one sample with {cause_of(error)}") from error
