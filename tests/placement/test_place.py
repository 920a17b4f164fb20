import json
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gaussian_memory import GaussianMemory
from joulewise.devices import SRAM
from joulewise.errors import InputError, ModelError, OperatingPointError
from joulewise.models import build
from joulewise.placement import Placement, Plan, place

W = SRAM(bits=8)


def rand(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def names(model, **options):
    return [tensor.name for tensor in place(model, weights=W, **options).placed]


class Free(nn.Module):
    """Parameters on the root and in containers, used as functions."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(rand(4, 6))
        self.bias = nn.Parameter(rand(4))
        self.rest = nn.ParameterList([nn.Parameter(rand(4, 4)), nn.Parameter(rand(4, 4))])
        self.named = nn.ParameterDict({"last": nn.Parameter(rand(3, 4))})
        self.register_parameter("none", None)

    def forward(self, inputs):
        hidden = F.linear(inputs, self.first, self.bias)
        for weight in self.rest:
            hidden = F.linear(hidden, weight, self.none)
        return F.linear(hidden, self.named["last"])


def test_weights_are_parameters_with_two_axes_or_more():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(16, 5, bias=False),
        nn.LayerNorm(5),
        nn.PReLU(5),
    )
    placement = place(model, weights=W)
    assert [(t.name, t.role, t.shape, t.words) for t in placement.placed] == [
        ("0.weight", "weight", (4, 3, 3, 3), 108),
        ("3.weight", "weight", (5, 16), 80),
    ]
    assert placement.reliable_bits == 32 * (4 + 4 + 4 + 5 + 5 + 5)
    assert not placement.traced and all(t.traffic is None for t in placement.placed)


def test_parameters_anywhere():
    assert names(Free()) == ["first", "rest.0", "rest.1", "named.last"]
    assert names(Free(), example_inputs=rand(2, 6)) == ["first", "rest.0", "rest.1", "named.last"]


def test_the_model_itself_is_a_layer():
    placement = place(nn.Linear(3, 2), weights=W, activations=W, example_inputs=rand(2, 3))
    assert [(t.name, t.owners) for t in placement.placed] == [
        ("weight", (("", "weight"),)),
        (":input", (("", ""),)),
    ]


@pytest.mark.parametrize("root", [True, False])
def test_the_layer_of_a_parametrised_weight_is_the_one_that_is_called(root):
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    model = layer if root else nn.Sequential(layer)
    placement = place(model, weights=W, activations=W, example_inputs=rand(2, 3))
    prefix = "" if root else "0."
    assert [t.name for t in placement.placed] == [
        f"{prefix}parametrizations.weight.original0",
        f"{prefix}parametrizations.weight.original1",
        f"{prefix[:-1]}:input",
    ]


def test_include_and_exclude():
    model = build("resnet8", (3, 16, 16), 4, seed=0)
    everything = names(model)
    assert names(model, include=["head.*"]) == ["head.weight", "head.bias"]
    assert names(model, include=["head.*"], exclude=["*.bias"]) == ["head.weight"]
    assert names(model, exclude=["stages.*"]) == ["stem.0.weight", "head.weight"]
    assert set(names(model, include=["*"])) == {name for name, _ in model.named_parameters()}
    assert names(model, exclude=["stages.[01].*"]) == [
        name for name in everything if not name.startswith(("stages.0", "stages.1"))
    ]


def test_patterns_choose_among_activations_too():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    both = {"weights": W, "activations": W, "example_inputs": rand(2, 3)}
    chosen = place(model, **both, include=["1*"], exclude=["1.bias"]).placed
    assert [tensor.name for tensor in chosen] == ["1.weight", "1:input"]
    only = place(
        model, activations=W, example_inputs=rand(2, 3), exclude=["0:input", "0.weight"]
    ).placed
    assert [(tensor.name, tensor.role) for tensor in only] == [("1:input", "activation")]


@pytest.mark.parametrize("field", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_refused(field):
    message = "the pattern is 'fc.*', which matches no tensor; allowed: one of 0.weight, 0.bias"
    with pytest.raises(InputError, match=re.escape(message)):
        place(nn.Sequential(nn.Linear(3, 2)), weights=W, **{field: ["fc.*"]})


@pytest.mark.parametrize("field", ["include", "exclude"])
def test_a_string_in_place_of_a_list_is_refused(field):
    message = f"{field} is the string '*.bias'; allowed: a list of patterns, ['*.bias']"
    with pytest.raises(InputError, match=re.escape(message)):
        place(nn.Linear(3, 2), weights=W, **{field: "*.bias"})


@pytest.mark.parametrize(
    ("model", "options"),
    [(nn.LayerNorm(3), {}), (nn.Linear(3, 2), {"exclude": ["*"]})],
    ids=["one axis", "excluded"],
)
def test_nothing_placed_is_refused(model, options):
    with pytest.raises(InputError, match="nothing is placed"):
        place(model, weights=W, **options)


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ModelError, match="the model has no parameters"):
        place(nn.Sequential(nn.ReLU(), nn.Flatten()), weights=W)


def test_no_memory_is_refused():
    with pytest.raises(InputError, match="place was given no memory; give weights= or act"):
        place(nn.Linear(3, 2))


def test_activations_without_inputs_are_refused():
    with pytest.raises(InputError, match="activations need example_inputs=, a batch"):
        place(nn.Linear(3, 2), activations=W)


class Pair(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = nn.Parameter(first), nn.Parameter(second)

    def forward(self, inputs):
        return inputs @ self.first @ self.second.T


def test_tied_weights_are_placed_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    (tensor,) = place(model, weights=W, example_inputs=rand(2, 4)).placed
    assert tensor.name == "0.weight" and tensor.traffic.reads == 32
    assert tensor.owners == (("0", "weight"), ("1", "weight"))
    shared = rand(4, 4)
    (tensor,) = place(Pair(shared, shared), weights=W, example_inputs=rand(2, 4)).placed
    assert tensor.owners == (("", "first"), ("", "second"))


def test_a_module_under_two_names_is_placed_once():
    layer = nn.Linear(4, 4)
    placement = place(nn.Sequential(layer, nn.ReLU(), layer), weights=W, example_inputs=rand(2, 4))
    assert [(t.name, t.traffic.reads) for t in placement.placed] == [("0.weight", 32)]
    assert placement.reliable_bits == 32 * 4


BASE = rand(6, 6)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (BASE[:4], BASE[2:]),
        (BASE, BASE[:2]),
        (BASE, BASE.T),
        (BASE[:, :2], BASE[4:, :2]),
    ],
    ids=["overlapping", "a part", "transposed", "strided"],
)
def test_parameters_that_share_a_part_are_refused_by_name(first, second):
    with pytest.raises(
        ModelError, match="the storage of (first|second) is in part that of (fir|s)"
    ):
        place(Pair(first, second), weights=W)


def test_parameters_side_by_side_are_fine():
    assert names(Pair(BASE[:3], BASE[3:])) == ["first", "second"]


def test_a_lazy_layer_is_refused_by_name():
    model = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(ModelError, match=r"the shape of 0\.\w+ is not known yet; allowed: a model"):
        place(model, weights=W)
    model(rand(2, 5))
    assert names(model) == ["0.weight"]


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (torch.empty(4, 4, device="meta"), "the device of first is meta; allowed: a device with"),
        (torch.eye(4).to_sparse(), "the layout of first is torch.sparse_coo; allowed: a dense"),
        (
            torch.ones(4, 4, dtype=torch.cfloat),
            "the dtype of first is torch.complex64; allowed: a floating dtype; exclude 'first'",
        ),
    ],
    ids=["meta", "sparse", "complex"],
)
def test_parameters_that_no_memory_holds_are_refused_by_name(first, message):
    with pytest.raises(ModelError, match=message):
        place(Pair(first, rand(4, 4)), weights=W)


def test_integer_parameters_are_refused_with_the_remedy():
    model = Pair(rand(4, 4), rand(4, 4))
    model.second = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match="the dtype of second is torch.int8; .* exclude 'second'"):
        place(model, weights=W)
    assert names(model, exclude=["second"]) == ["first"]


def test_empty_parameters_hold_no_words():
    assert names(Pair(rand(4, 4), torch.zeros(0, 4))) == ["first"]


def test_a_layer_that_is_never_read_is_refused_with_the_remedy():
    model = nn.Sequential(nn.Linear(3, 2))
    model.add_module("spare", nn.Identity())
    model.spare.inner = nn.Linear(3, 3)
    message = "spare.inner.weight is never read in the traced forward pass"
    with pytest.raises(ModelError, match=f"{message}.*exclude 'spare.inner.weight'"):
        place(model, weights=W, example_inputs=rand(2, 3))
    assert names(model, example_inputs=rand(2, 3), exclude=["spare.inner.weight"]) == ["0.weight"]
    with pytest.raises(ModelError, match=message):
        place(model, weights=W).trace(rand(2, 3))


@pytest.mark.parametrize(
    ("model", "inputs", "layer"),
    [
        (Free(), rand(2, 6), "rest"),
        (
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            rand(2, 5, 8),
            "self_attn.out_proj",
        ),
    ],
    ids=["a container", "attention"],
)
def test_the_input_of_a_layer_that_is_not_called_is_refused(model, inputs, layer):
    both = {"weights": W, "activations": W, "example_inputs": inputs}
    with pytest.raises(ModelError, match=f"the input of {layer} cannot be placed") as error:
        place(model, **both)
    (remedy,) = re.findall(r"exclude '(.*)'$", str(error.value))
    exclude = [remedy] if layer != "rest" else [remedy, "named:input"]
    placed = [tensor.name for tensor in place(model, **both, exclude=exclude).placed]
    assert remedy not in placed and any(name.endswith(":input") for name in placed)


def test_integer_inputs_are_not_activations():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 3))
    placement = place(model, activations=W, example_inputs=torch.tensor([[1, 2, 3], [4, 5, 6]]))
    assert [tensor.name for tensor in placement.placed] == ["2:input"]


def test_each_input_of_a_layer_is_an_activation_of_its_own():
    placement = place(nn.Bilinear(4, 5, 3), activations=W, example_inputs=(rand(2, 4), rand(2, 5)))
    assert [(t.name, t.shape) for t in placement.placed] == [(":input", (4,)), (":input1", (5,))]


def test_tracing_later_is_tracing_at_once():
    model = build("cnn", (1, 8, 8), 3, seed=0)
    inputs = rand(2, 1, 8, 8)
    at_once = place(model, weights=W, example_inputs=inputs)
    later = place(model, weights=W).trace(inputs)
    assert later == at_once and later.trace(inputs) is later


def test_points():
    placement = place(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), weights=W)
    assert placement.points({"eta": 0.5}) == {"0.weight": 0.5, "1.weight": 0.5}
    reliable = placement.points(placement.most_reliable())
    assert reliable == {"0.weight": 1.0, "1.weight": 1.0}
    planes = torch.linspace(0.1, 0.8, 8)
    points = placement.points(Plan({"1.weight": {"eta": 0.25}, "0.weight": {"eta": planes}}))
    assert list(points) == ["0.weight", "1.weight"]
    assert points["0.weight"].tolist() == planes.tolist()
    assert points["1.weight"] == 0.25


@pytest.mark.parametrize(
    ("points", "error", "message"),
    [
        ({"0.weight": 0.5}, InputError, "1.weight is placed here, and the plan has no point for"),
        ({"0.bias": 0.5}, InputError, "a point for 0.bias, which is not placed here; placed are "),
        ({"0.weight": 0.5, "1.weight": 1.5}, OperatingPointError, "eta is 1.5; allowed: 0 to 1"),
        (
            {"0.weight": torch.full((3, 1), 0.5), "1.weight": 0.5},
            OperatingPointError,
            "the points of 0.weight is 3; allowed: 2, one for each output channel",
        ),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(points, error, message):
    placement = place(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), weights=W)
    with pytest.raises(error, match=message):
        placement.points(Plan({name: {"eta": point} for name, point in points.items()}))


def test_points_for_channels_of_a_memory_that_takes_one_are_refused_by_name():
    class Careless(GaussianMemory):
        def point(self, **setting):
            return setting["std"]

    placement = place(nn.Linear(3, 2), weights=Careless())
    with pytest.raises(OperatingPointError, match="point of weight is .* as a Careless takes it"):
        placement.points({"std": torch.full((2, 1), 0.5)})


def test_points_for_channels_of_activations_are_refused_by_name():
    placement = place(nn.Linear(3, 2), weights=W, activations=W, example_inputs=rand(4, 3))
    points = {"weight": torch.full((2, 1), 0.5), ":input": torch.full((4, 1), 0.5)}
    said = "the operating point of :input is for 4 channels; allowed: .*only weights have output"
    with pytest.raises(OperatingPointError, match=said):
        placement.points(Plan({name: {"eta": point} for name, point in points.items()}))


@pytest.mark.parametrize("name", ["mlp", "cnn", "vgg", "resnet20", "mobilenetv2"])
def test_networks_of_the_zoo(name):
    model = build(name, (3, 16, 16), 4, seed=0)
    placement = place(model, weights=W, activations=W, example_inputs=rand(2, 3, 16, 16))
    layers = [p for n, p in model.named_parameters() if p.ndim > 1]
    roles = [tensor.role for tensor in placement.placed]
    assert roles == ["weight"] * len(layers) + ["activation"] * len(layers)
    assert all(t.traffic.reads == t.words for t in placement.placed)


def test_a_placement_has_a_short_text():
    """It was 20,885 characters: the whole model, and each tensor with its memory."""
    model = build("resnet20", (3, 16, 16), 4, seed=0)
    untraced = place(model, weights=W)
    placement = place(model, weights=W, activations=W, example_inputs=rand(2, 3, 16, 16))
    assert len(repr(placement).splitlines()) == 5
    assert len(repr(placement)) < 400
    assert "not traced" in repr(untraced)
    assert "weights" in placement._repr_html_()
    assert len(placement._rows()) == len(placement.placed)
    assert json.loads(json.dumps(placement.to_dict(), allow_nan=False))["macs"] == placement.macs


def test_plans_of_many_tensors():
    """Each tensor is looked up once: twenty thousand took 13 s, and hours at a million."""
    (one,) = place(nn.Linear(2, 2), weights=W).placed
    names = [f"{n}.weight" for n in range(20_000)]
    many = Placement(
        model=nn.Linear(2, 2),
        placed=tuple(replace(one, name=name) for name in names),
        reliable_bits=0,
    )
    plan = Plan({name: {"eta": 0.5} for name in names})
    assert list(many.points(plan)) == names
    assert set(many.points({"eta": 0.25}).values()) == {0.25}


class Tied(nn.Module):
    """A table that is the head, too."""

    def __init__(self):
        super().__init__()
        self.table, self.body = nn.Embedding(9, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        return self.head(self.body(self.table(ids)))


def test_memories_by_pattern():
    wide, narrow = SRAM(bits=8), SRAM(bits=4)
    by_name = {"head.*": wide, "*": narrow}
    placed = {p.name: p.device for p in place(Tied(), weights=by_name).placed}
    assert placed == {"table.weight": wide, "body.weight": narrow}
    # The first that matches; None leaves a weight in reliable memory.
    placed = place(Tied(), weights={"body.weight": None, "*": narrow}).placed
    assert [(p.name, p.device) for p in placed] == [("table.weight", narrow)]
    assert [p.name for p in place(Tied(), weights={"body.*": wide}).placed] == ["body.weight"]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"haed.*": SRAM()}, "weights is given for 'haed.*', which matches none; allowed: one of"),
        ({"*": 8}, r"weights\['\*'\] is 8 .int.; allowed: a memory"),
        ({"*": SRAM(), "table.*": SRAM()}, "weights is given for 'table..', which matches none"),
        ({3: SRAM()}, "a pattern of weights is 3"),
        ({}, "nothing is placed"),
    ],
)
def test_memories_by_pattern_that_do_not_fit(weights, message):
    with pytest.raises(InputError, match=message):
        place(Tied(), weights=weights)
