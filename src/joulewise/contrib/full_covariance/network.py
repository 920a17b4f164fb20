"""The network as a graph of operations, and a check that its placed tensors are each used once."""

from __future__ import annotations

import copy
import inspect
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from joulewise.errors import JoulewiseError, ModelError
from joulewise.placement import Placed, Placement
from joulewise.user_code import cause_of

__all__ = ["Network", "Step", "function_of", "trace_network"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """One operation of the graph.

    Args:
        node: The graph's node.
        name: What messages call it: a module's path, or a function and its number.
        kind: What the table of rules calls it: a module's type, a function, a method's name.
        module: The module, its parameters in the dtype of the computation; None for others.
        weights: The module's placed parameters by their names within it.
        stored: The placed inputs of the layer, in order.
        last_use_of: Nodes that nothing needs after this operation.
    """

    node: fx.Node
    name: str
    kind: Any
    module: nn.Module | None
    weights: Mapping[str, Placed]
    stored: Sequence[Placed]
    last_use_of: Sequence[fx.Node]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network:
    """A model's operations in order.

    Args:
        steps: The operations.
        root: The model.
        dtype: What is computed in.
    """

    steps: Sequence[Step]
    root: nn.Module
    dtype: torch.dtype

    def constant(self, target: str) -> Any:
        """A parameter, buffer or attribute of the model, in the dtype of the computation."""
        found = operator.attrgetter(target)(self.root)
        if isinstance(found, torch.Tensor):
            found = found.detach()
            return found.to(self.dtype) if found.is_floating_point() else found
        return found


def trace_network(placement: Placement, rules: Mapping[Any, Any], dtype: torch.dtype) -> Network:
    """Trace a model symbolically; it computes with its own tensors meanwhile.

    Args:
        placement: The model and what is placed.
        rules: Module types that have a rule are not looked into.
        dtype: What is computed in.

    Raises:
        ModelError: if the model cannot be traced, uses a placed tensor more than once, or in a way
            that the graph's operations do not show.
        JoulewiseError: whatever the model's own code raises of these.
    """
    model = placement.model
    tracer = _Tracer(rules)
    try:
        # fx looks into the module that it is given; a single layer is a graph of one operation.
        whole = tracer.is_leaf_module(model, "")
        graph = _single(model) if whole else tracer.trace(model)
    except JoulewiseError:
        raise
    except Exception as error:  # the user's code: anything may happen
        raise ModelError(
            f"the model cannot be traced by torch.fx: {cause_of(error)}; allowed: models whose "
            'control flow does not depend on values; or use method="first-order"'
        ) from error
    modules = dict(model.named_modules(remove_duplicate=False))
    last_uses = _last_uses(graph)
    steps = [_step(node, modules, placement.placed, dtype, last_uses) for node in graph.nodes]
    _check_used_once(steps, placement.placed)
    return Network(steps=steps, root=model, dtype=dtype)


class _Tracer(fx.Tracer):
    """Stops at PyTorch's own layers, and at those that have a rule."""

    def __init__(self, rules: Mapping[Any, Any]) -> None:
        super().__init__()
        self._rules = rules

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one operation."""
        return type(m) in self._rules or super().is_leaf_module(m, module_qualified_name)


def _single(model: nn.Module) -> fx.Graph:
    graph = fx.Graph()
    name = next(iter(inspect.signature(model.forward).parameters))
    graph.output(graph.call_module("", (graph.placeholder(name),)))
    return graph


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        last[node] = node
        for used in node.all_input_nodes:
            last[used] = node
    at: dict[fx.Node, list[fx.Node]] = {}
    for used, user in last.items():
        at.setdefault(user, []).append(used)
    return at


def _step(
    node: fx.Node,
    modules: Mapping[str, nn.Module],
    placed: Sequence[Placed],
    dtype: torch.dtype,
    last_uses: Mapping[fx.Node, Sequence[fx.Node]],
) -> Step:
    module: nn.Module | None = None
    kind, name = node.target, node.name
    if node.op == "call_module":
        path = str(node.target)
        module, name = modules[path], path or "the model"
        kind = type(module)
        module = _cast(module, dtype)
    elif node.op in ("call_function", "call_method"):
        name = f"{getattr(node.target, '__name__', node.target)} ({node.name} in the graph)"
    step = Step(
        node=node,
        name=name,
        kind=kind,
        module=module,
        weights=_weights_of(node, placed),
        stored=[p for p in placed if _is_input_of(p, node)],
        last_use_of=last_uses.get(node, ()),
    )
    _check_in_place(step)
    return step


def _cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    tensors = (*module.parameters(), *module.buffers())
    if all(t.dtype == dtype for t in tensors if t.is_floating_point()):
        return module
    return copy.deepcopy(module).to(dtype)


def _weights_of(node: fx.Node, placed: Sequence[Placed]) -> dict[str, Placed]:
    """Placed parameters within a module, or the parameter that a node fetches."""
    if node.op not in ("call_module", "get_attr"):
        return {}
    found = {}
    for tensor in placed:
        for path, parameter in tensor.owners if tensor.role == "weight" else ():
            full = f"{path}.{parameter}" if path else parameter
            prefix = f"{node.target}." if node.target else ""
            if node.op == "get_attr" and full == node.target:
                found[parameter] = tensor
            elif node.op == "call_module" and full.startswith(prefix):
                found[full.removeprefix(prefix)] = tensor
    return found


def _is_input_of(tensor: Placed, node: fx.Node) -> bool:
    called = node.op == "call_module" and tensor.role == "activation"
    return called and tensor.owners[0][0] == node.target


_IN_PLACE_OPERATORS = frozenset({"iadd", "isub", "imul", "itruediv", "imatmul", "ipow"})


def _check_in_place(step: Step) -> None:
    """What an operation overwrites must not be used again: the graph would give the old values.

    Raises:
        ModelError: naming the operation.
    """
    node = step.node
    inplace = getattr(step.module, "inplace", False) or node.kwargs.get("inplace", False)
    called = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.op in ("call_method", "call_function"):
        inplace = inplace or called.endswith("_") or called in _IN_PLACE_OPERATORS
    if inplace and node.args and node.args[0] not in step.last_use_of:
        raise ModelError(
            f"{step.name} works in place on a value that is used again later; allowed: in-place "
            'operations on values used once; or use method="first-order"'
        )


def _check_used_once(steps: Sequence[Step], placed: Sequence[Placed]) -> None:
    """Refuse what would be counted wrongly, or not at all.

    Raises:
        ModelError: naming the first.
    """
    uses: Counter[str] = Counter()
    for step in steps:
        found = [*step.weights.values(), *step.stored]
        uses.update(tensor.name for tensor in found)
        if step.node.op == "get_attr" and found:
            raise ModelError(
                f"{found[0].name} is placed and used by a function, not by a layer, which no rule "
                f"covers; exclude '{found[0].name}', or use method=\"first-order\""
            )
    for tensor in placed:
        if uses[tensor.name] != 1:
            how = "not used by any layer of" if not uses[tensor.name] else "used more than once in"
            raise ModelError(
                f"{tensor.name} is placed and {how} the traced graph, which moments do not cover; "
                f"exclude '{tensor.name}', or use method=\"first-order\""
            )


def function_of(step: Step) -> Callable[..., Any]:
    """What a step calls."""
    if step.module is not None:
        return step.module.forward  # not the call: hooks are for the model, not for its moments
    if step.node.op == "call_method":
        name = str(step.node.target)
        return lambda self, *args, **kwargs: getattr(self, name)(*args, **kwargs)
    function: Callable[..., Any] = step.kind
    return function
