"""Energy of a prompt token and of a generated token of a causal language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from joulewise.devices import DRAM, EDRAM, HOROWITZ_INT8, Arithmetic
from joulewise.errors import check_count, check_kind, refuse
from joulewise.placement.energy import Energy, energy
from joulewise.placement.kv_cache import cache_argument, is_cache_name
from joulewise.placement.memory import private_memory
from joulewise.placement.placement import Placed, Placement
from joulewise.placement.plan import At, Plan
from joulewise.placement.process_state import guarded
from joulewise.placement.tracing import trace
from joulewise.results import Result
from joulewise.units import format_si

__all__ = ["TokenEnergy", "token_energy"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TokenEnergy(Result):
    """Energy of a language model by token, in joules.

    Args:
        prompt: Energy of one token of the prompt.
        generated: Energy of one generated token, at the end of the context.
        context: Tokens of the prompt, and positions of the cache that a generated token reads.
        batch: Sequences that share each fetch of a weight.
    """

    prompt: Energy
    generated: Energy
    context: int
    batch: int

    def to_dict(self) -> dict[str, Any]:
        """See `Result`."""
        parts = {"prompt": self.prompt.to_dict(), "generated": self.generated.to_dict()}
        return {**parts, "context": self.context, "batch": self.batch}

    def _overview(self) -> tuple[str, Mapping[str, str]]:
        rows = {"prompt token": self.prompt, "generated token": self.generated}
        return f"context of {self.context} tokens, batch of {self.batch}", {
            name: f"{format_si(one.total_j, 'J')}, {format_si(one.memory_total_j, 'J')} of it in "
            "placed memory"
            for name, one in rows.items()
        }


@guarded
def token_energy(
    placement: Placement,
    *,
    at: At,
    context: int,
    batch: int = 1,
    arithmetic: Arithmetic = HOROWITZ_INT8,
) -> TokenEnergy:
    """Joules for a token of the prompt, and for a generated one, at a batch and a context.

    A pass over the prompt reads each weight once for all its tokens, a step of decoding once for
    one token of each sequence of the batch; weights in arrays that compute are not fetched, and
    cost each token the same. A generated token reads the keys and values of the whole context, or
    of its sliding window, and writes its own. In a cache whose memory states ``step_s`` the entries
    that are read are refreshed over that time, once for a prompt and once for a generated token.
    In a mixture of experts, the experts that any token of the pass chooses are fetched; tokens are
    taken to choose at random, independently of each other.

    Args:
        placement: A causal model of transformers; see `joulewise.placement.place`.
        at: Operating points; see `Placement.points`.
        context: Tokens, 1 or more; with a placed cache at most the positions that it holds, unless
            its window slides, and fewer than the positions of the model.
        batch: Sequences, 1 or more.
        arithmetic: The energy of a multiply-accumulate.

    Raises:
        InputError: if a number is out of range, or the points do not fit.
        ModelError: if the model does not take tokens and a cache.
    """
    check_kind("placement", placement, Placement, "the result of joulewise.place(model, ...)")
    check_count("context", context, 1)
    check_count("batch", batch, 1)
    _check_context(placement, context)
    argument = cache_argument(placement.model)
    device = next(iter(placement.model.parameters())).device
    ids = torch.zeros(1, context, dtype=torch.long, device=device)
    layers = _layers(placement)
    prompt = trace(placement, {"input_ids": ids}, layers)
    with private_memory(placement) as memory:
        memory.original()
        output = memory.placement.model(input_ids=ids, use_cache=True)
        cache = output[argument]
    step = trace(placement, {"input_ids": ids[:, :1], argument: cache}, layers)
    bare = replace(placement, macs=None)
    one_prompt, one_step = (_each(bare.counted(c), _refreshed) for c in (prompt, step))
    first = _routed(one_prompt, one_step, context * batch)
    then = _each(_routed(one_step, one_step, batch), _written_once)
    # Checked against the placement as given: those above have other latencies.
    plan = Plan(placement.plan(at))
    passes, decoded = (energy(one, at=plan, arithmetic=arithmetic) for one in (first, then))
    return TokenEnergy(
        prompt=_per_token(first, passes, context, batch),
        generated=_per_token(then, decoded, 1, batch),
        context=context,
        batch=batch,
    )


def _check_context(placement: Placement, context: int) -> None:
    """Refuse more tokens than the model has positions, or than a placed cache holds."""
    config = getattr(placement.model, "config", None)
    most = getattr(config, "max_position_embeddings", None)
    if isinstance(most, int) and context >= most:  # one more position for the generated token
        refuse("context", context, f"at most {most - 1}, by max_position_embeddings of the model")
    cells = [p.shape[0] for p in placement.placed if is_cache_name(p.name)]
    if cells and context > max(cells) and getattr(config, "sliding_window", None) is None:
        allowed = f"at most {max(cells)}, the tokens of example_inputs of the placed cache"
        refuse("context", context, allowed)


def _layers(placement: Placement) -> list[str]:
    """Layers whose inputs are placed."""
    placed = [p for p in placement.placed if p.role == "activation" and not is_cache_name(p.name)]
    return list(dict.fromkeys(path for p in placed for path, _ in p.owners))


def _each(placement: Placement, change: Callable[[Placed], Placed]) -> Placement:
    """A placement with each of its tensors changed."""
    return replace(placement, placed=tuple(change(placed) for placed in placement.placed))


def _refreshed(placed: Placed) -> Placed:
    """Cached tensors with a ``step_s``, whose entries that are read are refreshed for one step."""
    device = placed.device
    if not is_cache_name(placed.name) or not isinstance(device, EDRAM | DRAM):
        return placed
    if placed.traffic is None or device.step_s is None:
        return placed
    device = replace(device, latency_s=device.step_s)
    held = replace(placed.traffic, words=int(placed.traffic.reads))
    return replace(placed, device=device, traffic=held)


def _routed(placement: Placement, step: Placement, tokens: int) -> Placement:
    """A placement with the reads of experts in a pass over so many tokens.

    If each token takes a fraction f of them at random, as in a step of decoding, all tokens take
    ``1 - (1 - f)^tokens``.

    Args:
        placement: The placement.
        step: The same in a step of decoding of one token.
        tokens: Tokens of the pass, of all sequences.
    """
    fractions = {
        placed.name: placed.traffic.reads / placed.words
        for placed in step.placed
        if placed.traffic is not None and _of_experts(placed)
    }

    def own(placed: Placed) -> Placed:
        if placed.traffic is None or placed.name not in fractions:
            return placed
        reads = placed.words * (1 - (1 - fractions[placed.name]) ** tokens)
        return replace(placed, traffic=replace(placed.traffic, reads=reads))

    return _each(placement, own)


def _of_experts(placed: Placed) -> bool:
    """True for a stack of matrices of which a pass reads some."""
    reads = placed.words if placed.traffic is None else placed.traffic.reads
    return placed.role == "weight" and len(placed.shape) > 2 and reads < placed.words


def _written_once(placed: Placed) -> Placed:
    """Cached tensors of a step of decoding: one position is written, all are read."""
    if placed.traffic is None or not is_cache_name(placed.name):
        return placed
    writes = placed.words / placed.shape[0]
    return replace(placed, traffic=replace(placed.traffic, writes=writes))


def _per_token(placement: Placement, whole: Energy, tokens: int, batch: int) -> Energy:
    """Energy of a pass over tokens of one sequence, as that of a token."""
    shared = {
        placed.name: tokens * (batch if _fetched_once(placed) else 1) for placed in placement.placed
    }
    reliable = energy(placement, at=placement.most_reliable()).memory_j
    return replace(
        whole,
        memory_j={name: joules / shared[name] for name, joules in whole.memory_j.items()},
        memory_reliable_j=sum(float(joules) / shared[name] for name, joules in reliable.items()),
        converters_j=whole.converters_j / tokens,
        unplaced_j=whole.unplaced_j / (tokens * batch),
        arithmetic_j=whole.arithmetic_j / tokens,
    )


def _fetched_once(placed: Placed) -> bool:
    """True for a weight that one fetch brings to all sequences of a batch."""
    partly_read = placed.traffic is not None and placed.traffic.reads < placed.words
    # A table of which rows are looked up is read for each sequence.
    looked_up = partly_read and not _of_experts(placed)
    return placed.role == "weight" and placed.device.array is None and not looked_up
