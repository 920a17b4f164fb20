"""Fitting a deployed network to one chip: its scales, its last layer or all of its parameters."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from joulewise.data import Dataset, Split
from joulewise.devices import Chip, PlainPoint, Point, plain_point
from joulewise.errors import (
    DataError,
    InputError,
    ModelError,
    WeightsError,
    check_count,
    check_in_range,
    refuse,
)
from joulewise.metrics import Accuracy
from joulewise.models import seeded
from joulewise.optim.ascent import writable
from joulewise.placement import At, Batch, Placement, call, prepare, private_memory, restored_modes
from joulewise.training.batchnorm import reestimate_batchnorm, tracking_layers
from joulewise.training.recipe import schedule_of
from joulewise.training.training_memory import TrainingMemory

__all__ = ["ChipFitting", "fit_to_chip"]

Choice = Literal["scales", "last", "all"]
# Best of a search in factors of three, on a few chips of networks on digits and on CIFAR-10.
_RATES: Mapping[Choice, float] = {"scales": 0.01, "last": 0.01, "all": 0.0003}
# First use of the chip while it is fitted: far from those of a test, so that read noise differs.
_FIRST_USE = 2**32


class ChipFitting(BaseModel):
    """Options and results of fitting a network to one chip.

    Args:
        chip: Seed of the chip.
        plan: Operating point of each placed tensor.
        parameters: Kind of parameters that were fitted.
        fitted: Names of the fitted parameters.
        words: Number of entries of the fitted parameters.
        epochs: Passes over the training split.
        batch_size: Samples in a step.
        lr: Highest learning rate.
        seed: Seed of the order of the samples.
        images: Number of training samples.
        before: Test accuracy on this chip before fitting, in [0, 1].
        after: Test accuracy on this chip after fitting, in [0, 1].
        steps: Number of optimizer steps.
        seconds: Duration of fitting, without the two tests.
    """

    model_config = ConfigDict(frozen=True)

    chip: int
    plan: dict[str, PlainPoint]
    parameters: Choice
    fitted: tuple[str, ...]
    words: int
    epochs: int
    batch_size: int
    lr: float
    seed: int
    images: int
    before: float
    after: float
    steps: int
    seconds: float


def fit_to_chip(
    placement: Placement,
    data: Dataset,
    *,
    chip: Chip,
    at: At,
    parameters: Choice = "scales",
    epochs: int = 3,
    batch_size: int = 64,
    lr: float | None = None,
    seed: int = 0,
) -> ChipFitting:
    """Fit a deployed classifier to one chip, in place.

    The parameters that may still change differ by chip and by cost:

    - ``"scales"``: all parameters that are not placed, hence in reliable memory beside the arrays:
      scales and biases of normalisation, and biases. The stored words stay.
    - ``"last"``: the parameters of the last layer with a placed weight, in the order of the model.
      They are written anew to the same cells, with the same faults.
    - ``"all"``: every parameter, hence training for each chip.

    First the statistics of BatchNorm are re-estimated on the chip (`reestimate_batchnorm`). Then
    Adam minimises the cross entropy through a `TrainingMemory` of the chip, with a cosine schedule
    and the model in evaluation mode, so that the network is fitted as it will run: without dropout
    and with those statistics. Scales and biases could compensate for other statistics, the last
    layer could not.

    Images are not augmented; a subset of the training split may suffice (`Split.subset`). Only the
    fitted parameters and the statistics of BatchNorm change; ``requires_grad`` (which does not
    select parameters here), gradients and module modes are restored. After an exception and Ctrl-C
    everything is restored.

    Args:
        placement: Placed tensors and their devices.
        data: A data set with a training split to fit to, and a test split for the accuracy.
        chip: The chip. Read noise differs between steps, and from that of the test.
        at: Operating points; see `joulewise.simulation.simulate`.
        parameters: Kind of parameters to fit.
        epochs: Passes over the training split, 1 or more.
        batch_size: Samples in a step, 1 or more.
        lr: Highest learning rate, above 0; None for 0.0003 with ``"all"``, else 0.01.
        seed: Seed of the order of the samples, 0 or more.

    Returns:
        The record. Its two accuracies are those of `simulate` with ``chips=1`` and the chip's seed.

    Raises:
        DataError: if the data set has no training split.
        InputError: if the points do not fit the placement, a number is out of range, or the loss or
            a weight becomes NaN or infinite.
        ModelError: if the model has no parameters of that kind.
        WeightsError: if a parameter is NaN or infinite before.

    Example:
        >>> from joulewise.data import load_digits
        >>> from joulewise.devices import SRAM
        >>> from joulewise.models import build
        >>> from joulewise.placement import place
        >>> from joulewise.training import TrainingSpec, train
        >>> digits = load_digits()
        >>> model = build("cnn", digits.input_shape, digits.classes, seed=0)
        >>> _ = train(model, digits, TrainingSpec(epochs=2, lr=0.1, augment=False))
        >>> placement = place(model, weights=SRAM(bits=8))
        >>> record = fit_to_chip(placement, digits, chip=Chip(seed=5), at={"eta": 0.15}, epochs=1)
        >>> record.after > record.before + 0.1, record.steps
        (True, 19)

    References:
        Batch normalisation fitted to the noise of a crossbar: A. Bhattacharjee et al., GLSVLSI
        2023, arXiv 2305.18416. The last layer trained again on the chip: P. Yao et al., Nature 577,
        641, 2020. Layers fitted with the chip in the loop: W. Wan et al., Nature 608, 504, 2022,
        which programs layer after layer; ``"all"`` here writes all in each step. The order
        (statistics first, then held), the recipe and faults in words are ours.
    """
    if data.train is None:
        raise DataError(f"{data.name} has no training split; allowed: data with one, to fit to")
    epochs = check_count("epochs", epochs, 1)
    batch_size = check_count("batch_size", batch_size, 1)
    seed = check_count("seed", seed, 0)
    if lr is not None:
        check_in_range("lr", lr, 0.0, 100.0, open_low=True)
    model, split = placement.model, data.train
    points = placement.points(at)
    memory = TrainingMemory(placement, at=at, chip=chip)
    memory.load_state_dict({"seed": chip.seed, "steps": _FIRST_USE})
    fitted = _chosen(placement, parameters)
    _check_finite(model, fitted)
    lr = _RATES[parameters] if lr is None else lr
    test = prepare(data.test, model)
    before = _accuracy(placement, points, chip, test, data.classes)
    began = time.perf_counter()
    with _only(model, fitted.values()):
        if tracking_layers(model):
            reestimate_batchnorm(memory, split)
        steps = _fit(
            memory, fitted.values(), split, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed
        )
        seconds = time.perf_counter() - began
        after = _accuracy(placement, points, chip, test, data.classes)
    return ChipFitting(
        chip=chip.seed,
        plan={name: plain_point(point) for name, point in points.items()},
        parameters=parameters,
        fitted=tuple(fitted),
        words=sum(parameter.numel() for parameter in fitted.values()),
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        images=len(data.train),
        before=before,
        after=after,
        steps=steps,
        seconds=seconds,
    )


def _chosen(placement: Placement, parameters: Choice) -> dict[str, nn.Parameter]:
    """The parameters to fit, by name.

    Raises:
        ModelError: if there are none.
    """
    kinds = get_args(Choice)
    if parameters not in kinds:
        refuse("parameters", repr(parameters), " or ".join(map(repr, kinds)))
    modules = dict(placement.model.named_modules())
    weights = [placed for placed in placement.placed if placed.role == "weight"]
    if parameters == "last" and not weights:
        refuse("parameters", "'last', and no weight is placed", "'scales' or 'all'", ModelError)
    named = {n: p for n, p in placement.model.named_parameters() if p.is_floating_point()}
    wanted = {id(parameter) for parameter in named.values()}
    if parameters == "scales":
        wanted -= {id(own) for placed in weights for own in placed.parameters(modules)}
    if parameters == "last":
        owners = {_layer(path) for placed in weights for path, _ in placed.owners}
        last = [layer for layer in map(_layer, modules) if layer in owners][-1]
        wanted &= {
            id(own)
            for path, module in modules.items()
            if _layer(path) == last
            for own in module._parameters.values()
        }
    found = {name: parameter for name, parameter in named.items() if id(parameter) in wanted}
    if not found:
        got = "'scales', and the model has neither scales nor biases outside of its memory"
        refuse("parameters", got, "'last' or 'all'", ModelError)
    return found


def _check_finite(model: nn.Module, fitted: Collection[str]) -> None:
    """Refuse parameters that are NaN; infinity may be intended where it is not fitted.

    Raises:
        WeightsError: if a parameter is NaN, or one to be fitted infinite.
    """
    for name, parameter in model.named_parameters():
        wrong = ~parameter.isfinite() if name in fitted else parameter.isnan()
        if wrong.any():
            got = f"NaN or infinite in {int(wrong.sum())} of {wrong.numel()}"
            refuse(name, got, "finite entries only", WeightsError)


def _layer(path: str) -> str:
    """Path of the layer of a module: parametrisations of a weight are children of the layer."""
    return f".{path}".split(".parametrizations.")[0][1:]


@contextmanager
def _only(model: nn.Module, fitted: Collection[Tensor]) -> Iterator[None]:
    """Let only ``fitted`` require gradients; after an exception restore them and the buffers."""
    before = [(p, p.requires_grad, p.grad) for p in model.parameters() if p.is_floating_point()]
    changing = chain(fitted, writable(model.buffers()))
    copies = [(t.detach(), t.detach().clone()) for t in changing]
    try:
        chosen = {id(parameter) for parameter in fitted}
        for parameter, _, _ in before:
            parameter.requires_grad_(id(parameter) in chosen)
            parameter.grad = None
        yield
    except BaseException:
        with torch.no_grad():
            for tensor, copy in copies:
                tensor.copy_(copy)
        raise
    finally:
        for parameter, requires_grad, gradient in before:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient


def _fit(
    memory: TrainingMemory,
    fitted: Collection[Tensor],
    split: Split,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
) -> int:
    """Minimise the cross entropy on the chip; return the number of steps.

    Raises:
        InputError: if the loss or a weight becomes NaN or infinite.
    """
    model = memory.placement.model
    steps = epochs * math.ceil(len(split) / batch_size)
    optimizer = torch.optim.Adam(fitted, lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule_of(steps, warmup=0.0))
    generator = torch.Generator().manual_seed(seed)
    losses = []
    # A user's modules may draw from the global generator in evaluation mode too.
    with restored_modes(model), seeded(seed), torch.enable_grad(), _differentiable(model):
        model.eval()
        for _ in range(epochs):
            order = torch.randperm(len(split), generator=generator)
            for chosen in torch.split(order, batch_size):
                part = replace(split, inputs=split.inputs[chosen], targets=split.targets[chosen])
                (batch,) = prepare(part, model, batch_size)
                optimizer.zero_grad()
                try:
                    losses.append(_forward_backward(memory, batch))
                except WeightsError as error:  # the memory refuses weights that a NaN loss made NaN
                    raise InputError(f"{error}, at lr {lr:g}; try a lower lr") from error
                optimizer.step()
                schedule.step()
    # The weights too, since the last step follows the last loss.
    if not all(bool(found.isfinite().all()) for found in (torch.stack(losses), *fitted)):
        raise InputError(
            f"the loss or a weight became NaN or infinite at lr {lr:g}; try a lower lr"
        )
    return steps


@contextmanager
def _differentiable(model: nn.Module) -> Iterator[None]:
    """Disable cuDNN if there are recurrent layers: it differentiates them in training mode only."""
    before = torch._C._get_cudnn_enabled()
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    try:
        torch._C._set_cudnn_enabled(before and not recurrent)
        yield
    finally:
        torch._C._set_cudnn_enabled(before)


def _forward_backward(memory: TrainingMemory, batch: Batch) -> Tensor:
    """Accumulate the gradients of the loss on the chip in the parameters; return the loss."""
    assert batch.targets is not None
    with memory:
        outputs = call(memory.placement.model, batch.inputs)
        loss = functional.cross_entropy(outputs.float(), batch.targets)
        loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def _accuracy(
    placement: Placement,
    points: Mapping[str, Point],
    chip: Chip,
    batches: Sequence[Batch],
    classes: int,
) -> float:
    """Accuracy on one chip.

    Raises:
        ModelError: if the outputs are not ``[batch, classes]``.
    """
    passed = Accuracy().new()
    with private_memory(placement) as memory:
        memory.read(points, chip)
        for batch in batches:
            outputs, targets = memory.call(batch.inputs), batch.targets
            assert targets is not None
            if outputs.shape != (len(targets), classes):
                allowed = f"{(len(targets), classes)}, [batch, classes]"
                refuse("the shape of the outputs", tuple(outputs.shape), allowed, ModelError)
            passed.update(outputs, targets)
    found = passed.compute()
    assert found is not None  # a sample whose outputs are NaN is wrong; no pass fails
    return found
