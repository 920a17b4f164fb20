"""Weights to and from a file, all or nothing."""

from __future__ import annotations

import json
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Never

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from joulewise.errors import WeightsError, refuse
from joulewise.files import write_atomically

__all__ = ["load_weights", "save_weights"]

# Metadata entry: JSON from each tensor left out to the stored one with which it shares memory.
_ALIASES = "joulewise.aliases"


def save_weights(model: nn.Module, path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write the state of a model as safetensors; the old file stays until the new one is whole.

    Tensors that are one tensor in the model (tied weights) are stored once.

    Args:
        model: The model.
        path: File to write, ending in ``.safetensors``; its folder exists.
        metadata: Text to store along; ``load_weights`` returns it.

    Raises:
        WeightsError: if the file cannot be written, or the model or ``metadata`` holds what
            safetensors cannot store; the old file is then as it was.

    Example:
        >>> import tempfile
        >>> model = nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_weights(model, Path(folder) / "w.safetensors", {"epoch": "3"})
        ...     load_weights(model, Path(folder) / "w.safetensors")
        {'epoch': '3'}
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        _refuse_file(path, "not named as safetensors", "a name that ends in .safetensors")
    if _ALIASES in metadata:
        _refuse_file(path, f"given metadata with the key {_ALIASES!r}", "any other key")
    tensors = _state(model, path)
    aliases = _aliases(tensors)
    # clone: safetensors takes only contiguous tensors that own their whole storage.
    stored = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
        if name not in aliases
    }
    extra = {_ALIASES: json.dumps(aliases)} if aliases else {}
    try:
        write_atomically(path, safetensors.torch.save(stored, {**metadata, **extra}))
    except Exception as error:
        raise WeightsError(
            f"weights file {path} is not writable ({_cause(error)}); allowed: a file in an"
            " existing folder, plain tensors, and metadata of text only"
        ) from error


def load_weights(model: nn.Module, path: str | Path) -> dict[str, str]:
    """Copy the weights in a file into a model, after checking that every one of them fits.

    A PyTorch file holds a state dict, alone or under ``"state_dict"`` or ``"model"``; a prefix
    ``"module."`` on all its names is dropped. Code in such a file is never executed. Floating
    point values are converted to the dtype of the model; other values must have the same dtype.
    Whatever does not fit ends in a WeightsError that names the file and the first such tensor.

    Args:
        model: The model; untouched if anything is refused.
        path: A file that ends in ``.safetensors``, ``.pt``, ``.pth`` or ``.bin``.

    Returns:
        The metadata that was stored along; empty for a PyTorch file.

    Example:
        >>> load_weights(nn.Linear(2, 1), "missing.pt")
        Traceback (most recent call last):
            ...
        joulewise.errors.WeightsError: weights file missing.pt is missing; allowed: a file that
        exists
    """
    path = Path(path)
    tensors, metadata = _read(path)
    own = _state(model, path, to_be_written=True)
    tensors = _named_alike(tensors, own)
    _fill_ties(tensors, own)
    _check_names(path, tensors, own)
    fitting = {name: _fitting(path, name, tensors[name], own[name]) for name in own}
    _check_ties(path, fitting, own)
    # Not a copy_ per tensor: modules may hook the loading of their state.
    model.load_state_dict(fitting)
    return metadata


# ---- the model's side


def _state(model: nn.Module, path: Path, *, to_be_written: bool = False) -> dict[str, Tensor]:
    state: dict[str, object] = model.state_dict()
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor) or is_lazy(value) or not _is_plain(value):
            kind = _kind(value)
            _refuse_file(path, f"for a model whose {name!r} is {kind}", "plain tensors with values")
        if to_be_written and _repeats_memory(value):
            kind = "an expanded view"
            _refuse_file(path, f"for a model whose {name!r} is {kind}", "tensors that own entries")
        tensors[name] = value
    return tensors


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_quantized)


def _repeats_memory(tensor: Tensor) -> bool:
    # Copying into such a tensor fails halfway through a load.
    return any(stride == 0 and size > 1 for stride, size in zip(*_layout(tensor), strict=True))


def _layout(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(tensor.stride()), tuple(tensor.shape)


def _kind(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return "a tensor without values" if value.is_meta or is_lazy(value) else "not a plain tensor"


def _aliases(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Each tensor that is the same view of the same memory as an earlier one, and which."""
    first: dict[tuple[object, ...], str] = {}
    aliases = {}
    for name, tensor in tensors.items():
        memory = (tensor.device, tensor.untyped_storage().data_ptr(), tensor.storage_offset())
        kept = first.setdefault((*memory, *_layout(tensor), tensor.dtype), name)
        if kept != name:
            aliases[name] = kept
    return aliases


# ---- the file's side


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if path.is_dir():
        _refuse_file(path, "a folder", "a file in it")
    if not path.exists():
        _refuse_file(path, "missing", "a file that exists")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        _refuse_file(path, "of an unknown kind", f"a name that ends in {', '.join(_READERS)}")
    try:
        return reader(path)
    except WeightsError:
        raise
    # Readers of damaged files fail in any way at all, KeyError and EOFError among them.
    except Exception as error:
        raise WeightsError(
            f"weights file {path} is not readable, truncated or corrupt ({_cause(error)});"
            " allowed: a whole file; copy or save it again"
        ) from error


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a dict
        metadata = dict(file.metadata() or {})
    aliases = json.loads(metadata.pop(_ALIASES, "{}"))
    return tensors | {alias: tensors[kept] for alias, kept in aliases.items()}, metadata


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with warnings.catch_warnings():
            # About pickle protocols and TorchScript, both of which end in a refusal.
            warnings.simplefilter("ignore")
            state = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        if not _is_whole_pickle(path):
            raise
        found = re.search(r"GLOBAL (\S+)", str(error))
        code = f"contains code ({found[1]})" if found else "may contain code"
        raise WeightsError(
            f"weights file {path} is a pickle that {code}, which was not executed;"
            " allowed: a state dict of tensors, best as .safetensors"
        ) from error
    return _tensors_in(path, state), {}


_READERS: Mapping[str, Callable[[Path], tuple[dict[str, Tensor], dict[str, str]]]] = (
    MappingProxyType(
        {
            ".safetensors": _read_safetensors,
            ".pt": _read_torch,
            ".pth": _read_torch,
            ".bin": _read_torch,
        }
    )
)


def _is_whole_pickle(path: Path) -> bool:
    """Whether a file that torch refused is intact; reads the opcodes and executes none."""
    if zipfile.is_zipfile(path):
        return True
    try:
        with path.open("rb") as file:
            return sum(1 for _ in pickletools.genops(file)) > 1
    except Exception:
        return False


def _tensors_in(path: Path, state: object) -> dict[str, Tensor]:
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping):
        _refuse_file(path, f"a stored {type(state).__name__}", "a state dict, name to tensor")
    for name, value in state.items():
        if not (isinstance(name, str) and isinstance(value, Tensor) and _is_plain(value)):
            got = f"a state dict whose {name!r} is {_kind(value)}"
            _refuse_file(path, got, "a state dict, name to plain tensor")
    return dict(state)


# ---- whether the two fit


def _named_alike(tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = "module."  # DataParallel and DistributedDataParallel put it there
    if any(name.startswith(prefix) for name in own):
        return tensors
    if not all(name.startswith(prefix) for name in tensors):
        return tensors
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _fill_ties(tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> None:
    # Other writers keep one name of tied weights, not always the one that comes first here.
    for alias, kept in _aliases(own).items():
        for absent, present in ((alias, kept), (kept, alias)):
            if absent not in tensors and present in tensors:
                tensors[absent] = tensors[present]


def _check_names(path: Path, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    allowed = "exactly the tensors of the model"
    missing = [name for name in own if name not in tensors]
    if missing:
        got = f"without {len(missing)} of the model's {len(own)} tensors, first {missing[0]!r}"
        _refuse_file(path, got, allowed)
    unexpected = [name for name in tensors if name not in own]
    if unexpected:
        got = f"with {len(unexpected)} unexpected of {len(tensors)} tensors, first "
        _refuse_file(path, got + repr(unexpected[0]), allowed)


def _fitting(path: Path, name: str, tensor: Tensor, own: Tensor) -> Tensor:
    """The stored tensor in the dtype of the model's own, refused if it is not a fit."""
    if tensor.shape != own.shape:
        got = f"of another model: {name!r} has shape {tuple(tensor.shape)}"
        _refuse_file(path, got, f"the model's shape {tuple(own.shape)}")
    both_floating = tensor.is_floating_point() and own.is_floating_point()
    if tensor.dtype != own.dtype and not both_floating:
        _refuse_file(path, f"of {tensor.dtype} for {name!r}", f"the model's {own.dtype}")
    fitting = tensor.to(own.dtype)
    bad = _count_non_finite(fitting, own)
    if bad:
        got = f"with {bad} NaN or Inf among the {tensor.numel()} entries of {name!r}"
        _refuse_file(path, got, f"values that are finite as {own.dtype}")
    return fitting


def _count_non_finite(tensor: Tensor, own: Tensor) -> int:
    # isfinite does not know every 8-bit float.
    wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor
    bad = ~torch.isfinite(wide)
    if not bad.any():
        return 0
    # An Inf that the model put there itself is meant, for instance in an attention mask.
    return int((bad & (wide != own.detach().cpu().to(wide.dtype))).sum())


def _check_ties(path: Path, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    for alias, kept in _aliases(own).items():
        if not torch.equal(tensors[alias], tensors[kept]):
            got = f"of another model: {alias!r} and {kept!r} differ"
            _refuse_file(path, got, "equal values, since they are one tensor in the model")


# ---- words


def _refuse_file(path: Path, got: str, allowed: str) -> Never:
    refuse(f"weights file {path}", got, allowed, WeightsError)


def _cause(error: Exception) -> str:
    # The first sentence only: torch goes on to advise weights_only=False.
    words = " ".join(str(error).split()).split(". ")[0]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
