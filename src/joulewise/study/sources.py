"""Content behind the names of a study: digests of data, code, files and weights."""

from __future__ import annotations

import hashlib
import importlib.util
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from joulewise.data import Batches, Dataset, load_data
from joulewise.errors import DataError, refuse
from joulewise.models import ZOO, load_model, load_weights, save_weights
from joulewise.study.checks import check_study
from joulewise.study.entries import GenerationEntry, Place
from joulewise.study.memories import CustomMemory, Memory
from joulewise.study.named_files import content_of
from joulewise.study.store import content_digest
from joulewise.study.study_file import StudyFile
from joulewise.study.trials import DataRef, Evaluate, ModelRef, Sources, Train, source_name
from joulewise.user_code import importable

__all__ = ["check_files", "data_of", "safetensors_of", "sources_of"]


def sources_of(study: StudyFile, keep: Callable[[bytes], str]) -> Sources:
    """Find the content that a study names; builds memories, loads data, models and weights.

    Args:
        study: The study file.
        keep: Keeps a safetensors file and gives its digest.

    Raises:
        InputError: if one of them cannot be built or loaded, naming it.
    """
    check_study(study)
    _data.cache_clear()  # files may have changed since the last study of this process
    data, content = _data(study.data.source)
    if study.training and isinstance(data, Batches):
        got = f"given for {study.data.source}, which holds batches of mappings"
        refuse("training", got, "models with weights, or whose code loads them")
    models, weights = [], []
    for entry in study.models:
        model, code = load_model(entry.source, data.input_shape, data.classes, seed=0), ""
        if entry.source not in ZOO:  # the user's code may change
            state = hashlib.sha256(repr(model).encode() + _code_of(entry.source))
            for tensor in model.state_dict().values():
                state.update(_bytes_of(tensor) if isinstance(tensor, Tensor) else b"")
            code = state.hexdigest()[:16]
        names = {"label": entry.name, "source": source_name(entry.source), "path": entry.source}
        models.append(ModelRef(**names, content=code))
        if entry.weights is not None:
            load_weights(model, entry.weights)
        weights.append("" if entry.weights is None else keep(safetensors_of(model)))
    reference = DataRef(
        name=data.name,
        path=study.data.source,
        content=content,
        images=study.data.images,
    )
    files = [_files_digest(memory, study.place, study.generation) for memory in study.memories]
    return Sources(data=reference, models=models, weights=weights, files=files)


def _files_digest(memory: Memory, place: Place, generation: GenerationEntry | None) -> str:
    """Digest of the files, and of the code of one's own, that parts of a study name."""
    contents = [_code_of(memory.factory)] if isinstance(memory, CustomMemory) else []
    contents += [] if generation is None else [_code_of(generation.tokenizer)]
    files = (*memory.files, *([] if place.accesses is None else [place.accesses]))
    return content_digest(b"".join([*contents, *map(content_of, files)]))


def check_files(trial: Train | Evaluate) -> None:
    """Refuse a trial whose files are no longer those of its digest.

    Raises:
        DataError: naming the memory.
    """
    memory, place = trial.memory, trial.place or Place()
    generation = trial.generation if isinstance(trial, Evaluate) else None
    if memory is not None and _files_digest(memory, place, generation) != trial.files:
        raise DataError(f"the files of {memory.name} have changed; run the study again")


def _code_of(source: str) -> bytes:
    """Source of the user's module of ``module:function``, without the modules that it imports."""
    place = source.rpartition(":")[0]
    if not place.endswith(".py"):
        with importable(place), suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(place)
            place = "" if spec is None or spec.origin is None else spec.origin
    return Path(place).read_bytes() if place.endswith(".py") and Path(place).is_file() else b""


@lru_cache(maxsize=2)
def _data(source: str) -> tuple[Dataset | Batches, str]:
    """Data and the digest of all that results depend on."""
    data = load_data(source)
    if isinstance(data, Batches):
        content = hashlib.sha256()
        for batch in data.test:
            for name, tensor in batch.items():
                facts = repr((name, tensor.shape, tensor.dtype))
                content.update(facts.encode() + _bytes_of(tensor))
        return data, content.hexdigest()[:16]
    statistics = (data.classes, data.flips, data.test.mean, data.test.std)
    content = hashlib.sha256(repr(statistics).encode())
    for split in (data.train, data.test):
        for tensor in () if split is None else (split.inputs, split.targets):
            content.update(repr((tensor.shape, tensor.dtype)).encode() + _bytes_of(tensor))
    return data, content.hexdigest()[:16]


def data_of(reference: DataRef) -> Dataset | Batches:
    """The data of a trial.

    Raises:
        DataError: if they have changed since the study began.
    """
    data, content = _data(reference.path)
    if content != reference.content:
        _data.cache_clear()  # read by an earlier study of this worker
        data, content = _data(reference.path)
    if content != reference.content:
        raise DataError(f"the data {reference.path} have changed; run the study again")
    return data


def safetensors_of(model: nn.Module) -> bytes:
    """The state of a model as the content of a safetensors file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_weights(model, path, {})
        return path.read_bytes()


def _bytes_of(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    return bytes(flat.view(torch.uint8).numpy().data) if flat.numel() else b""
