"""Weights to and from files, all or nothing: safetensors by its own library, PyTorch files read."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Never

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from joulewise.errors import WeightsError, check_kind, refuse
from joulewise.files import write_atomically
from joulewise.user_code import cause_of

__all__ = ["load_weights", "save_weights"]

# Metadata entry: JSON from each tied tensor that is left out to the name of the one stored.
_ALIASES = "joulewise.aliases"


def save_weights(model: nn.Module, path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write the state of a model as safetensors, atomically.

    Tied weights (one tensor under several names) are stored once.

    Args:
        model: The model.
        path: File to write, ending in ``.safetensors``, in an existing folder.
        metadata: Text to store along; ``load_weights`` returns it.

    Raises:
        WeightsError: if the file cannot be written, or the model or ``metadata`` holds what
            safetensors cannot store; an older file of that name is then unchanged.

    Example:
        >>> import tempfile
        >>> model = nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_weights(model, Path(folder) / "w.safetensors", {"epoch": "3"})
        ...     load_weights(model, Path(folder) / "w.safetensors")
        {'epoch': '3'}
    """
    path, tensors = _checked(model, path)
    if path.suffix != ".safetensors":
        _refuse_file(path, "not named as safetensors", "a name that ends in .safetensors")
    if _ALIASES in metadata:
        _refuse_file(path, f"given metadata with the key {_ALIASES!r}", "any other key")
    # safetensors.torch.save_model would also drop overlapping views, which only a model with the
    # same views can load.
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
    """Copy the weights of a file into a model, after a check that every one of them fits.

    A PyTorch file holds a state dict, alone or under ``"state_dict"`` or ``"model"``; a prefix
    ``"module."`` on all its names is dropped. Code in such a file is never executed. Floating-point
    values are converted to the dtype of the model; other values must have the same dtype.

    Args:
        model: The model; unchanged if anything is refused.
        path: A file that ends in ``.safetensors``, ``.pt``, ``.pth`` or ``.bin``.

    Returns:
        The metadata that was stored along; empty for a PyTorch file.

    Raises:
        WeightsError: if the file cannot be read or a tensor does not fit; the message names the
            file and the first such tensor.
    """
    path, own = _checked(model, path)
    tensors, metadata = _read(path)
    for name, tensor in own.items():
        # Copying into such a tensor fails halfway through a load.
        axes = zip(tensor.stride(), tensor.shape, strict=True)
        if any(step == 0 and size > 1 for step, size in axes):
            got = f"for a model whose {name!r} is an expanded view"
            _refuse_file(path, got, "tensors that own entries")
    tensors = _renamed_and_tied(tensors, own)
    allowed = "exactly the tensors of the model"
    if missing := [name for name in own if name not in tensors]:
        got = f"without {len(missing)} of the model's {len(own)} tensors, first {missing[0]!r}"
        _refuse_file(path, got, allowed)
    if unexpected := [name for name in tensors if name not in own]:
        got = f"with {len(unexpected)} unexpected of {len(tensors)} tensors, first "
        _refuse_file(path, got + repr(unexpected[0]), allowed)
    fitting = {name: _fitting(path, name, tensors[name], own[name]) for name in own}
    for alias, kept in _aliases(own).items():
        if not torch.equal(fitting[alias], fitting[kept]):
            got = f"of another model: {alias!r} and {kept!r} differ"
            _refuse_file(path, got, "equal values, since they are one tensor in the model")
    # Not a copy_ per tensor: modules may hook the loading of their state.
    model.load_state_dict(fitting)
    return metadata


def _checked(model: nn.Module, path: str | Path) -> tuple[Path, dict[str, Tensor]]:
    """Path of a file, and the state dict of a model, all of it plain tensors with values."""
    check_kind("model", model, nn.Module, "a torch.nn.Module", WeightsError)
    check_kind("path", path, (str, Path), "a file name", WeightsError)
    path = Path(path)
    allowed = "plain tensors with values"
    return path, _plain_tensors(path, model.state_dict(), "for a model", allowed)


def _plain_tensors(
    path: Path, state: Mapping[str, object], owner: str, allowed: str
) -> dict[str, Tensor]:
    tensors = {}
    for name, value in state.items():
        kind = f"a {type(value).__name__}"
        if isinstance(value, Tensor):
            if value.is_meta or is_lazy(value):
                kind = "a tensor without values"
            elif value.layout != torch.strided or value.is_quantized:
                kind = "not a plain tensor"
            elif isinstance(name, str):
                tensors[name] = value
                continue
        _refuse_file(path, f"{owner} whose {name!r} is {kind}", allowed)
    return tensors


def _aliases(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Map each tensor that is the same view of memory as an earlier one to that one's name."""
    first: dict[tuple[object, ...], str] = {}
    aliases = {}
    for name, tensor in tensors.items():
        memory = (tensor.device, tensor.untyped_storage().data_ptr(), tensor.storage_offset())
        kept = first.setdefault((*memory, tensor.stride(), tensor.shape, tensor.dtype), name)
        if kept != name:
            aliases[name] = kept
    return aliases


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and metadata of a file.

    Raises:
        WeightsError: if that is not possible.
    """
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
        got = f"not readable, truncated or corrupt ({_cause(error)})"
        if isinstance(error, pickle.UnpicklingError):  # torch raises it for code and for damage
            found = re.search(r"GLOBAL (\S+)", str(error))
            code = f"contains code ({found[1]})" if found else "may contain code"
            got = f"{'' if found else got + ', or '}a pickle that {code}, which was not executed"
        raise WeightsError(
            f"weights file {path} is {got}; allowed: a whole file with a state dict of tensors,"
            " best as .safetensors"
        ) from error


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    # Not load_file, which leaves out the metadata.
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a dict
        metadata = dict(file.metadata() or {})
    aliases = json.loads(metadata.pop(_ALIASES, "{}"))
    return tensors | {alias: tensors[kept] for alias, kept in aliases.items()}, metadata


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with warnings.catch_warnings():
        # About pickle protocols and TorchScript, both of which end in a refusal.
        warnings.simplefilter("ignore")
        state = torch.load(path, weights_only=True, map_location="cpu")
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping):
        _refuse_file(path, f"a stored {type(state).__name__}", "a state dict, name to tensor")
    return _plain_tensors(path, state, "a state dict", "a state dict, name to plain tensor"), {}


_READERS = {".safetensors": _read_safetensors} | dict.fromkeys((".pt", ".pth", ".bin"), _read_torch)


def _renamed_and_tied(tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the prefix of a parallel wrapper, and fill in tied tensors under their other names."""
    prefix = "module."  # of DataParallel and DistributedDataParallel
    if all(n.startswith(prefix) for n in tensors) and not any(n.startswith(prefix) for n in own):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    # Other writers keep one name of tied weights, not always the one that comes first here.
    for alias, kept in _aliases(own).items():
        for absent, present in ((alias, kept), (kept, alias)):
            if absent not in tensors and present in tensors:
                tensors[absent] = tensors[present]
    return tensors


def _fitting(path: Path, name: str, tensor: Tensor, own: Tensor) -> Tensor:
    """Stored tensor in the dtype of the model's own; refused if it does not fit."""
    if tensor.shape != own.shape:
        got = f"of another model: {name!r} has shape {tuple(tensor.shape)}"
        _refuse_file(path, got, f"the model's shape {tuple(own.shape)}")
    both_floating = tensor.is_floating_point() and own.is_floating_point()
    if tensor.dtype != own.dtype and not both_floating:
        _refuse_file(path, f"of {tensor.dtype} for {name!r}", f"the model's {own.dtype}")
    fitting = tensor.to(own.dtype)
    # isfinite does not know every 8-bit float.
    wide = fitting.float() if fitting.dtype.itemsize == 1 else fitting
    bad = ~torch.isfinite(wide)
    if bad.any():
        # An Inf where the model has one is meant, for instance in an attention mask.
        count = int((bad & (wide != own.detach().cpu().to(wide.dtype))).sum())
        if count:
            got = f"with {count} NaN or Inf among the {tensor.numel()} entries of {name!r}"
            _refuse_file(path, got, f"values that are finite as {own.dtype}")
    return fitting


def _refuse_file(path: Path, got: str, allowed: str) -> Never:
    refuse(f"weights file {path}", got, allowed, WeightsError)


def _cause(error: Exception) -> str:
    # The first sentence only: torch goes on to advise weights_only=False.
    return cause_of(error).split(". ")[0]
