import pickle
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from joulewise import files
from joulewise.errors import WeightsError
from joulewise.models import ZOO, build, load_weights, save_weights


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 3, bias=False)
        self.decoder = nn.Linear(3, 3, bias=False)
        self.decoder.weight = self.encoder.weight


class Untied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 3, bias=False)
        self.decoder = nn.Linear(3, 3, bias=False)


class Overlapping(nn.Module):
    def __init__(self):
        super().__init__()
        whole = torch.arange(6.0)
        self.register_buffer("whole", whole)
        self.register_buffer("part", whole[2:4])
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("also_empty", torch.zeros(0))


class TouchesAFile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def linear(seed=0):
    return build("mlp", (4,), 3, seed=seed)


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    def bits(tensor):
        return tensor.contiguous().reshape(-1).view(torch.uint8)

    return one.keys() == other.keys() and all(
        one[k].dtype == other[k].dtype and torch.equal(bits(one[k]), bits(other[k])) for k in one
    )


def refused(model, path, match):
    before = snapshot(model)
    with pytest.raises(WeightsError, match=match) as caught:
        load_weights(model, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert same(snapshot(model), before)


# ---- round trips


@pytest.mark.parametrize("name", ZOO)
def test_round_trip_of_the_zoo(name, tmp_path):
    path = tmp_path / "w.safetensors"
    saved, loaded = (build(name, (1, 8, 8), 3, seed=s) for s in (1, 2))
    saved(torch.ones(2, 1, 8, 8))  # moves the statistics and the counter of batch normalisation
    save_weights(saved, path, {"epoch": "3", "note": "äöü"})
    assert load_weights(loaded, path) == {"epoch": "3", "note": "äöü"}
    assert same(loaded.state_dict(), saved.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_round_trip_of_other_dtypes(dtype, tmp_path):
    saved, loaded = linear(1).to(dtype), linear(2).to(dtype)
    save_weights(saved, tmp_path / "w.safetensors", {})
    assert load_weights(loaded, tmp_path / "w.safetensors") == {}
    assert same(loaded.state_dict(), saved.state_dict())


def test_round_trip_of_channels_last(tmp_path):
    saved, loaded = (build("cnn", (3, 8, 8), 3, seed=s) for s in (1, 2))
    saved = saved.to(memory_format=torch.channels_last)
    assert not saved.features[1][0].weight.is_contiguous()
    save_weights(saved, tmp_path / "w.safetensors", {})
    load_weights(loaded, tmp_path / "w.safetensors")
    assert same(loaded.state_dict(), saved.state_dict())
    load_weights(saved, tmp_path / "w.safetensors")
    assert same(loaded.state_dict(), saved.state_dict())


@pytest.mark.parametrize("into", [Tied, Untied])
def test_round_trip_of_tied_weights(into, tmp_path):
    path = tmp_path / "w.safetensors"
    saved, loaded = Tied(), into()
    save_weights(saved, path, {"epoch": "3"})
    assert list(safetensors.torch.load_file(path)) == ["encoder.weight"]
    assert load_weights(loaded, path) == {"epoch": "3"}
    assert same(loaded.state_dict(), saved.state_dict())
    assert (loaded.encoder.weight is loaded.decoder.weight) == (into is Tied)


@pytest.mark.parametrize("kept", ["encoder.weight", "decoder.weight"])
def test_tied_weights_of_which_another_writer_kept_one(kept, tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({kept: torch.eye(3)}, path)
    model = Tied()
    load_weights(model, path)
    assert torch.equal(model.encoder.weight, torch.eye(3))


def test_round_trip_of_views_that_overlap(tmp_path):
    saved, loaded = Overlapping(), Overlapping()
    saved.whole += 1
    save_weights(saved, tmp_path / "w.safetensors", {})
    load_weights(loaded, tmp_path / "w.safetensors")
    assert same(loaded.state_dict(), saved.state_dict())


def test_an_inf_of_the_model_itself_is_loaded(tmp_path):
    def masked():
        model = nn.Linear(2, 2)
        model.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
        return model

    save_weights(masked(), tmp_path / "w.safetensors", {})
    load_weights(masked(), tmp_path / "w.safetensors")


def test_loading_leaves_gradients_and_identity_alone(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(linear(1), path, {})
    model = linear(2)
    parameters = list(model.parameters())
    load_weights(model, path)
    assert all(
        a is b and a.requires_grad for a, b in zip(parameters, model.parameters(), strict=True)
    )


# ---- PyTorch files


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".PT"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_pytorch_file(suffix, wrapper, prefix, tmp_path):
    saved, loaded = linear(1), linear(2)
    state = {prefix + name: tensor for name, tensor in saved.state_dict().items()}
    torch.save({"epoch": 3, wrapper: state} if wrapper else state, tmp_path / f"w{suffix}")
    assert load_weights(loaded, tmp_path / f"w{suffix}") == {}
    assert same(loaded.state_dict(), saved.state_dict())


def test_a_pytorch_file_in_the_old_format(tmp_path):
    saved, loaded = linear(1), linear(2)
    torch.save(saved.state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    load_weights(loaded, tmp_path / "w.pt")
    assert same(loaded.state_dict(), saved.state_dict())


def test_a_model_whose_names_do_start_with_module(tmp_path):
    saved, loaded = (nn.Sequential() for _ in range(2))
    saved.add_module("module", linear(1))
    loaded.add_module("module", linear(2))
    torch.save(saved.state_dict(), tmp_path / "w.pt")
    load_weights(loaded, tmp_path / "w.pt")
    assert same(loaded.state_dict(), saved.state_dict())


def test_doubles_are_rounded_to_the_dtype_of_the_model(tmp_path):
    saved, loaded = linear(1), linear(2)
    torch.save({k: v.double() for k, v in saved.state_dict().items()}, tmp_path / "w.pt")
    load_weights(loaded, tmp_path / "w.pt")
    assert same(loaded.state_dict(), saved.state_dict())


# ---- refusals of files


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_a_missing_file(name, tmp_path):
    refused(linear(), tmp_path / name, "is missing; allowed: a file that exists")


def test_a_folder(tmp_path):
    refused(linear(), tmp_path, "is a folder")


def test_an_unknown_kind(tmp_path):
    (tmp_path / "w.onnx").touch()
    refused(linear(), tmp_path / "w.onnx", r"of an unknown kind; allowed: .*\.safetensors, \.pt")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "old.pt"])
def test_a_truncated_file(name, share, tmp_path):
    path = tmp_path / name
    if name == "w.safetensors":
        save_weights(linear(), path, {})
    else:
        state = linear().state_dict()
        torch.save(state, path, _use_new_zipfile_serialization=name == "w.pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(linear(1), path, "is not readable, truncated or corrupt")


@pytest.mark.parametrize("content", [b"hello world", b"\x00" * 100, b"\x80\x02" + b"x" * 50, b"."])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_garbage(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    refused(linear(), tmp_path / name, "is not readable, truncated or corrupt")


@pytest.mark.parametrize("aliases", ["{", "3", '{"a": "nowhere"}'])
def test_damaged_aliases(aliases, tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(linear().state_dict(), path, {"joulewise.aliases": aliases})
    refused(linear(), path, "corrupt")


def write_with_torch(value, path):
    torch.save(value, path)


def write_with_torch_as_of_old(value, path):
    torch.save(value, path, _use_new_zipfile_serialization=False)


def write_with_pickle_0(value, path):
    path.write_bytes(pickle.dumps(value, protocol=0))


def write_with_pickle_5(value, path):
    path.write_bytes(pickle.dumps(value, protocol=5))


@pytest.mark.parametrize(
    "write",
    [write_with_torch, write_with_torch_as_of_old, write_with_pickle_0, write_with_pickle_5],
)
def test_code_in_a_pickle_is_not_executed(write, tmp_path):
    path, proof = tmp_path / "w.pt", tmp_path / "proof"
    write({"features.1.weight": TouchesAFile(proof)}, path)
    pattern = r"contains? code.*, which was not executed; allowed: .* best as \.safetensors"
    refused(linear(), path, pattern)
    assert not proof.exists()
    # The pickle is a real threat: plain torch.load runs it.
    if write is write_with_torch:
        torch.load(path, weights_only=False)
        assert proof.exists()


def test_a_whole_pickled_model_is_not_executed(tmp_path):
    torch.save(linear(), tmp_path / "w.pt")
    refused(linear(), tmp_path / "w.pt", r"contains code \(joulewise.models.zoo.MLP\)")


@pytest.mark.parametrize("value", [[1, 2], 3, torch.zeros(2)], ids=["list", "int", "tensor"])
def test_a_pytorch_file_without_a_state_dict(value, tmp_path):
    torch.save(value, tmp_path / "w.pt")
    refused(linear(), tmp_path / "w.pt", r"is a stored \w+; allowed: a state dict")


@pytest.mark.parametrize(
    "value",
    [3, None, torch.zeros(3, 256, device="meta"), torch.eye(3).to_sparse()],
    ids=["int", "none", "meta", "sparse"],
)
def test_a_state_dict_with_other_than_plain_tensors(value, tmp_path):
    torch.save(linear().state_dict() | {"head.weight": value}, tmp_path / "w.pt")
    refused(linear(), tmp_path / "w.pt", "'head.weight' is")


# ---- refusals of contents


def write_changed(tmp_path, change):
    state = dict(linear(1).state_dict())
    change(state)
    torch.save(state, tmp_path / "w.pt")
    return tmp_path / "w.pt"


def test_missing_tensors(tmp_path):
    path = write_changed(tmp_path, lambda s: [s.pop("features.3.bias"), s.pop("head.weight")])
    refused(linear(), path, "without 2 of the model's 6 tensors, first 'features.3.bias'")


def test_unexpected_tensors(tmp_path):
    path = write_changed(tmp_path, lambda s: s.update(b=torch.zeros(1), a=torch.zeros(1)))
    refused(linear(), path, "with 2 unexpected of 8 tensors, first 'b'")


def test_an_empty_state_dict(tmp_path):
    torch.save({}, tmp_path / "w.pt")
    refused(linear(), tmp_path / "w.pt", "without 6 of the model's 6 tensors")


@pytest.mark.parametrize("shape", [(3, 255), (256, 3), (768,), (1, 3, 256), ()])
def test_another_shape(shape, tmp_path):
    path = write_changed(tmp_path, lambda s: s.update({"head.weight": torch.zeros(shape)}))
    pattern = f"'head.weight' has shape {shape}; allowed: the model's shape (3, 256)"
    refused(linear(), path, re.escape(pattern))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_a_dtype_that_cannot_be_copied(dtype, tmp_path):
    path = write_changed(tmp_path, lambda s: s.update({"head.weight": s["head.weight"].to(dtype)}))
    refused(linear(), path, f"is of {dtype} for 'head.weight'; allowed: the model's torch.float32")


def test_a_float_for_an_integer(tmp_path):
    model = nn.BatchNorm2d(2)
    state = model.state_dict() | {"num_batches_tracked": torch.tensor(1.5)}
    torch.save(state, tmp_path / "w.pt")
    refused(model, tmp_path / "w.pt", "torch.float32 for 'num_batches_tracked'")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite(value, tmp_path):
    def spoil(state):
        state["head.weight"][1, 4:6] = value

    path = write_changed(tmp_path, spoil)
    refused(linear(), path, "with 2 NaN or Inf among the 768 entries of 'head.weight'")


def test_values_that_overflow_in_the_dtype_of_the_model(tmp_path):
    def enlarge(state):
        state["head.weight"][0, 0] = 1e6

    path = write_changed(tmp_path, enlarge)
    refused(linear().half(), path, "1 NaN or Inf .* finite as torch.float16")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_floats(dtype, tmp_path):
    saved = linear(1).to(dtype)
    save_weights(saved, tmp_path / "w.safetensors", {})
    load_weights(linear(), tmp_path / "w.safetensors")
    saved.state_dict()["head.bias"][1] = torch.nan
    save_weights(saved, tmp_path / "w.safetensors", {})
    refused(saved, tmp_path / "w.safetensors", "with 1 NaN or Inf among the 3")


def test_tied_weights_that_differ_in_the_file(tmp_path):
    torch.save(Untied().state_dict(), tmp_path / "w.pt")
    refused(Tied(), tmp_path / "w.pt", "'decoder.weight' and 'encoder.weight' differ")


def test_a_model_that_cannot_take_the_values(tmp_path):
    model = nn.Module()
    model.register_buffer("mask", torch.zeros(1).expand(4))
    torch.save(model.state_dict(), tmp_path / "w.pt")
    refused(model, tmp_path / "w.pt", "'mask' is an expanded view")
    save_weights(model, tmp_path / "w.safetensors", {})


# ---- refusals of saving, and what is left behind


@pytest.mark.parametrize(
    "model", [nn.Linear(2, 2, device="meta"), nn.LazyLinear(2)], ids=["meta", "lazy"]
)
def test_a_model_without_values(model, tmp_path):
    with pytest.raises(WeightsError, match="'weight' is a tensor without values"):
        save_weights(model, tmp_path / "w.safetensors", {})
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="'weight' is a tensor without values"):
        load_weights(model, tmp_path / "w.pt")


def test_a_state_that_is_no_tensor(tmp_path):
    class Extra(nn.Module):
        def get_extra_state(self):
            return {"a": 1}

    with pytest.raises(WeightsError, match="'_extra_state' is a dict"):
        save_weights(Extra(), tmp_path / "w.safetensors", {})


@pytest.mark.parametrize("name", ["w.pt", "w", "safetensors"])
def test_another_suffix(name, tmp_path):
    with pytest.raises(WeightsError, match=r"ends in \.safetensors"):
        save_weights(linear(), tmp_path / name, {})


def test_metadata_that_is_taken_or_no_text(tmp_path):
    with pytest.raises(WeightsError, match="the key 'joulewise.aliases'"):
        save_weights(linear(), tmp_path / "w.safetensors", {"joulewise.aliases": "{}"})
    with pytest.raises(WeightsError, match="metadata of text only"):
        save_weights(linear(), tmp_path / "w.safetensors", {"epoch": 3})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(WeightsError, match="FileNotFoundError.* an existing folder"):
        save_weights(linear(), tmp_path / "nowhere" / "w.safetensors", {})


def test_a_folder_in_place_of_the_file(tmp_path):
    (tmp_path / "w.safetensors").mkdir()
    with pytest.raises(WeightsError, match="is not writable"):
        save_weights(linear(), tmp_path / "w.safetensors", {})
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_files_get_the_permissions_that_files_get(tmp_path):
    (tmp_path / "plain").touch()
    save_weights(linear(), tmp_path / "w.safetensors", {})
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize(
    ("thrown", "caught"),
    [(OSError(28, "No space left on device"), WeightsError), (KeyboardInterrupt(), None)],
    ids=["disk full", "interrupt"],
)
@pytest.mark.parametrize("moment", ["before the sync", "before the rename"])
def test_an_interrupted_write_leaves_the_old_file(thrown, caught, moment, tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_weights(linear(1), path, {})
    old = path.read_bytes()

    def fail(*args):
        assert len(list(tmp_path.iterdir())) == 2
        raise thrown

    if moment == "before the sync":
        monkeypatch.setattr(files, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(caught or type(thrown)):
        save_weights(linear(2), path, {})
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
    load_weights(linear(3), path)
