"""Train many small networks at once on one GPU.

A small network leaves most of a GPU idle: its kernels are short, and each waits for the one before.
Here the step of each network is a CUDA graph, replayed on one of several streams, beside the steps
of other networks.

A step is that of `joulewise.training.train`, with its schedule, augmentation, precision and
optimizer. Two things differ: the GPU draws all random numbers, noise of memories included, since a
graph cannot ask NumPy; and the last batch of an epoch is left out if it is short.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from joulewise.data import Dataset, Split
from joulewise.devices import Mask
from joulewise.optim.sharpness_aware import SharpnessAware
from joulewise.training import TrainingSpec, augment, clip_weights
from joulewise.training.recipe import optimizer_for, schedule_of
from joulewise.words import FixedPoint

# As many queues to the GPU as there can be; read when CUDA starts.
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
WARM_UP = 3

Read = Callable[[Tensor, torch.Generator], Tensor]
"""A weight as read on a new chip."""


def additive(relative: float) -> Read:
    """Gaussian noise; its standard deviation over the largest weight."""

    def read(w: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(w.shape, generator=generator, device=w.device)
        return w + relative * w.abs().max() * noise

    return read


def masked(rate: float, bits: int = 8) -> Read:
    """Words whose cells fail at ``rate``, masked."""

    def read(w: Tensor, generator: torch.Generator) -> Tensor:
        scale = FixedPoint(bits=bits).scale(w)
        codes = torch.round(w / scale).to(torch.int32)
        failing = torch.rand(*w.shape, bits, generator=generator, device=w.device) < rate
        places = 2 ** torch.arange(bits, dtype=torch.int32, device=w.device)
        hit = (failing * places).sum(-1, dtype=torch.int32)
        return Mask().read(codes, hit, hit, bits) * scale

    return read


@dataclass
class Network:
    """One network to train, and how far it is.

    Args:
        name: For messages.
        model: On the CPU; its weights there are the trained ones once it is `done`.
        spec: How to train.
        read: What the network computes with in place of its weights.
    """

    name: str
    model: nn.Module
    spec: TrainingSpec
    read: Read | None = None
    replayed: int = 0
    step: Step = field(init=False)

    @property
    def steps(self) -> int:
        return self.spec.epochs * self.step.per_epoch

    @property
    def done(self) -> bool:
        return self.replayed == self.steps


class Step:
    """The training step of one network, as a graph."""

    def __init__(self, network: Network, data: Dataset, split: Split) -> None:
        spec = network.spec
        self._data, self._split, self._spec, self._read = data, split, spec, network.read
        self._model = network.model.to("cuda", memory_format=torch.channels_last).train()
        self._weights = [p for p in self._model.parameters() if p.ndim >= 2]
        self.per_epoch = len(split) // spec.batch_size
        factor = schedule_of(spec.epochs * self.per_epoch, spec.warmup)
        rates = [spec.lr * factor(step) for step in range(spec.epochs * self.per_epoch)]
        self._rates = torch.tensor(rates, device="cuda")
        self._rate = torch.zeros((), device="cuda")
        self._optimizer = optimizer_for(self._model, spec, lr=self._rate, fused=True)
        self._mean = torch.tensor(split.mean, device="cuda").view(-1, 1, 1)
        self._std = torch.tensor(split.std, device="cuda").view(-1, 1, 1)
        self._generator = torch.Generator("cuda").manual_seed(spec.seed)
        self._order = torch.zeros(self.per_epoch, spec.batch_size, dtype=torch.int64, device="cuda")
        self._count = torch.zeros(1, dtype=torch.int64, device="cuda")
        self.loss = torch.zeros((), device="cuda")
        self._graph = self._captured()

    def _captured(self) -> torch.cuda.CUDAGraph:
        before = {k: v.clone() for k, v in self._model.state_dict().items()}
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(WARM_UP):
                self._run()
        torch.cuda.synchronize()
        self._optimizer.zero_grad()
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        with torch.cuda.graph(graph):
            self._run()
        self._model.load_state_dict(before)
        for state in self._optimizer.state.values():
            state["momentum_buffer"].zero_()
        self._count.zero_()
        self.loss.zero_()
        return graph

    def replay(self, step: int) -> None:
        """On the current stream."""
        if step % self.per_epoch == 0:
            used = self._order.numel()
            order = torch.randperm(len(self._split), generator=self._generator, device="cuda")[
                :used
            ]
            self._order.copy_(order.view_as(self._order))
            self.loss.zero_()
        self._graph.replay()

    def _run(self) -> None:
        # By index_select, as an index without axes is read by the host.
        self._rate.copy_(self._rates.index_select(0, self._count)[0])
        chosen = self._order.index_select(0, self._count % self.per_epoch)[0]
        inputs, targets = self._batch(chosen)
        self._optimizer.zero_grad(set_to_none=True)
        with self._reading():
            loss = self._slopes(inputs, targets)
            if isinstance(self._optimizer, SharpnessAware):
                with self._optimizer.ascent():
                    self._slopes(inputs, targets)
        self._optimizer.step()
        if self._spec.clip is not None:
            clip_weights(self._model, deviations=self._spec.clip)
        self.loss += loss / self.per_epoch
        self._count += 1

    def _batch(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        images = self._split.inputs[chosen]
        images = augment(
            images,
            padding=images.shape[-1] // 8,
            flips=self._data.flips,
            generator=self._generator,
        )
        inputs = (images.float() / 255 - self._mean) / self._std
        return inputs.contiguous(memory_format=torch.channels_last), self._split.targets[chosen]

    def _slopes(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            outputs = self._model(inputs)
        loss = functional.cross_entropy(outputs.float(), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Compute with what is read of the weights; gradients land on the weights."""
        if self._read is None:
            yield
            return
        with torch.no_grad():
            stored = [w.clone() for w in self._weights]
            for weight in self._weights:
                weight.copy_(self._read(weight, self._generator))
        yield
        with torch.no_grad():
            torch._foreach_copy_(self._weights, stored)


def train_together(
    networks: Sequence[Network], data: Dataset, *, lanes: int, seconds: float = math.inf
) -> list[Network]:
    """Train networks on the GPU, the first ones first.

    Args:
        networks: With models on the CPU, where the trained ones are at the end.
        data: Whose training images to train on.
        lanes: How many at a time.
        seconds: When to give up on what is not done.

    Returns:
        Those that are done.
    """
    assert data.train is not None
    began = time.perf_counter()
    split = Split(
        inputs=data.train.inputs.cuda(),
        targets=data.train.targets.cuda(),
        mean=data.train.mean,
        std=data.train.std,
    )
    torch.backends.cudnn.benchmark = True
    for network in networks:
        network.step = Step(network, data, split)
    torch.cuda.synchronize()
    print(f"{len(networks)} graphs in {time.perf_counter() - began:.1f} s", flush=True)
    start = time.perf_counter()
    waiting = list(networks)
    streams = [torch.cuda.Stream() for _ in range(lanes)]
    running: list[Network | None] = [None] * lanes
    rounds = 0
    while time.perf_counter() - began < seconds:
        for lane, stream in enumerate(streams):
            network = running[lane]
            if (network is None or network.done) and waiting:
                network = running[lane] = waiting.pop(0)
            if network is None or network.done:
                continue
            with torch.cuda.stream(stream):
                network.step.replay(network.replayed)
            network.replayed += 1
        rounds += 1
        if rounds % 200 == 0:
            # The host must not run ahead of the clock that it looks at.
            torch.cuda.synchronize()
        if not waiting and all(n is None or n.done for n in running):
            break
    torch.cuda.synchronize()
    spent = time.perf_counter() - start
    total = sum(network.replayed for network in networks)
    print(f"{total} steps in {spent:.1f} s: {total / spent:.0f} a second", flush=True)
    for network in networks:
        network.model.to("cpu", memory_format=torch.contiguous_format)
    return [network for network in networks if network.done]
