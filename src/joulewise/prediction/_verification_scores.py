"""Verification scores of weights: predicted effect on the output error, magnitude, or random."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from joulewise.data import Split
from joulewise.devices import WriteVerify
from joulewise.errors import check_count, check_in_range, check_kind, refuse
from joulewise.placement import Placement, guarded, private_memory
from joulewise.prediction.linearisation import Linearisation
from joulewise.prediction.problem import loaded_problem
from joulewise.progress import Progress, reporting

__all__ = ["verification_scores"]

By = Literal["error", "magnitude", "random"]


@guarded
def verification_scores(
    placement: Placement,
    data: Split | Iterable[Any] | None = None,
    *,
    by: By = "error",
    seed: int = 0,
    batch_size: int | None = None,
    memory_bytes: int = 1 << 30,
    progress: Progress = False,
) -> dict[str, Tensor]:
    """Score the weights of a placement on `WriteVerify` memories.

    Args:
        placement: The model and its memories, which are all `WriteVerify`.
        data: As for `predict`; some hundred samples are enough. Needed for ``by="error"`` alone.
        by: ``"error"``: the output error that verification saves, to first order: squared gradients
            of the outputs times the difference in variance, from one pass with random probes.
            ``"magnitude"``: the size of a weight. ``"random"``: uniform random scores.
        seed: Seed of probes, or of random scores.
        batch_size: As for `predict`.
        memory_bytes: Approximate limit on the memory of one pass without the model, in bytes.
        progress: As for `predict`.

    Returns:
        By the name of each placed tensor, float64 in its shape; for ``WriteVerify(scores=...)``.

    Raises:
        InputError: if a memory is of another kind, or data are missing.
    """
    if by not in get_args(By):
        refuse("by", repr(by), ", ".join(get_args(By)))
    check_count("seed", seed, 0)
    check_in_range("memory_bytes", memory_bytes, 1, 1 << 60)
    check_kind("placement", placement, Placement, "the result of joulewise.place(model, ...)")
    for placed in placement.placed:
        check_kind(f"the memory of {placed.name}", placed.device, WriteVerify, "a WriteVerify(...)")
    if by == "random":
        generator = torch.Generator().manual_seed(seed)
        return {
            p.name: torch.rand(p.shape, generator=generator, dtype=torch.float64)
            for p in placement.placed
        }
    if by == "magnitude":
        with private_memory(placement, frozen=True) as memory:
            return {name: stored.pairs.targets for name, stored in memory.stored.items()}
    if data is None:
        refuse("data", None, "samples, for scores by error")
    with (
        reporting(progress) as report,
        loaded_problem(
            placement,
            data,
            placement.most_reliable(),
            targets=False,
            batch_size=batch_size,
            progress=lambda *done: report("scoring", *done),
        ) as problem,
    ):
        network, done = Linearisation(problem, seed=seed, memory_bytes=memory_bytes), 0
        squares = {p.name: torch.zeros(p.shape, dtype=torch.float64) for p in placement.placed}

        def add(name: str, gradients: Any) -> None:
            squares[name] += gradients.summed().double().cpu()

        for piece in network.pieces(1):
            network.probe(piece, add)
            done += piece.samples
            problem.progress(done, problem.samples)
        scores = {}
        for placed in placement.placed:
            stored, device = problem.memory.stored[placed.name], placed.device
            unverified, verified = (device.moments(stored, point).var for point in (0.0, 1.0))
            scores[placed.name] = squares[placed.name] * (unverified - verified).double().cpu()
    return scores
