"""Graph of the operations of a network, in which each placed tensor is used exactly once."""

from __future__ import annotations

import copy
import inspect
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from joulewise.contrib.full_covariance.joint import Value
from joulewise.errors import JoulewiseError, ModelError
from joulewise.placement import Placed, Placement
from joulewise.user_code import cause_of

__all__ = ["Network", "Step", "trace_network"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """One operation of the graph.

    Args:
        node: Its node.
        name: Its name in messages: the path of a module, or a function and its node.
        kind: Its key in the table of rules: the type of a module, a function, a method's name.
        module: The module, its parameters in the dtype of the computation; None for others.
        weights: The placed parameters of the module by their names within it.
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

    @property
    def function(self) -> Callable[..., Any]:
        """The callable; of a module its ``forward``, since hooks are not meant for moments."""
        if self.module is not None:
            return self.module.forward
        if self.node.op == "call_method":
            return lambda self_, *args, **kwargs: getattr(self_, self.kind)(*args, **kwargs)
        function: Callable[..., Any] = self.kind
        return function


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network:
    """Operations of a model in order.

    Args:
        steps: The operations.
        root: The model.
        dtype: The dtype of the computation.
    """

    steps: Sequence[Step]
    root: nn.Module
    dtype: torch.dtype

    def run(self, inputs: Any, call: Callable[[Step, Any, frozenset[Value]], Any]) -> Any:
        """Run the operations in order.

        Args:
            inputs: As the model is called with: a tensor, a tuple, or a mapping.
            call: Runs one operation, given its arguments and keyword arguments as a pair, and the
                values that nothing needs after it.

        Returns:
            The output of the model, with what ``call`` returned.
        """
        env = self._placeholders(inputs)

        def look_up(argument: Any) -> Any:
            return env[argument] if isinstance(argument, fx.Node) else argument

        output: Any = None
        for step in self.steps:
            node = step.node
            if node.op == "output":
                output = map_aggregate(node.args[0], look_up)
            elif node.op == "get_attr":
                env[node] = self._constant(str(node.target))
            elif node.op != "placeholder":
                arguments: Any = map_aggregate((node.args, node.kwargs), look_up)
                last = [env[used] for used in step.last_use_of if used in env]
                env[node] = call(
                    step, arguments, frozenset(v for v in last if isinstance(v, Value))
                )
            for gone in step.last_use_of:
                env.pop(gone, None)
        return output

    def _placeholders(self, inputs: Any) -> dict[fx.Node, Any]:
        """Inputs of the graph: copies, in the dtype of the computation."""
        named = inputs if isinstance(inputs, Mapping) else {}
        listed = [] if named else list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]

        def copied(argument: Any) -> Any:
            if not isinstance(argument, Tensor):
                return argument
            # Copied, since the first operation may work in place.
            return argument.to(self.dtype if argument.is_floating_point() else None, copy=True)

        env: dict[fx.Node, Any] = {}
        for node in (step.node for step in self.steps if step.node.op == "placeholder"):
            default = node.args[0] if node.args else None
            found = named.get(str(node.target), listed.pop(0) if listed else default)
            env[node] = map_aggregate(found, copied)
        return env

    def _constant(self, target: str) -> Any:
        """A parameter, buffer or attribute of the model, in the dtype of the computation."""
        found = operator.attrgetter(target)(self.root)
        if isinstance(found, Tensor):
            found = found.detach()
            return found.to(self.dtype) if found.is_floating_point() else found
        return found


def trace_network(placement: Placement, rules: Mapping[Any, Any], dtype: torch.dtype) -> Network:
    """Trace a model symbolically; it must hold its own tensors meanwhile.

    Args:
        placement: The model and its placed tensors.
        rules: Table of rules; module types that have one are not traced into.
        dtype: The dtype of the computation.

    Raises:
        ModelError: if the model cannot be traced, uses a placed tensor more than once, or in a way
            that the operations of the graph do not show.
        JoulewiseError: any that the model's own code raises.
    """
    model = placement.model
    tracer = _Tracer(rules)
    try:
        # fx traces into the module that it is given; a single layer is a graph of one operation.
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
    last_user = {used: node for node in graph.nodes for used in (node, *node.all_input_nodes)}
    last_uses: dict[fx.Node, list[fx.Node]] = {}
    for used, user in last_user.items():
        last_uses.setdefault(user, []).append(used)
    steps = [
        _step(node, modules, placement.placed, dtype, last_uses.get(node, ()))
        for node in graph.nodes
    ]
    _check_used_once(steps, placement.placed)
    return Network(steps=steps, root=model, dtype=dtype)


class _Tracer(fx.Tracer):
    """Stops at PyTorch's own layers, and at those that have a rule."""

    def __init__(self, rules: Mapping[Any, Any]) -> None:
        super().__init__()
        self._rules = rules

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """True if a module is one operation."""
        return type(m) in self._rules or super().is_leaf_module(m, module_qualified_name)


def _single(model: nn.Module) -> fx.Graph:
    graph = fx.Graph()
    name = next(iter(inspect.signature(model.forward).parameters))
    graph.output(graph.call_module("", (graph.placeholder(name),)))
    return graph


def _step(
    node: fx.Node,
    modules: Mapping[str, nn.Module],
    placed: Sequence[Placed],
    dtype: torch.dtype,
    last_use_of: Sequence[fx.Node],
) -> Step:
    """A node with its module and its placed tensors."""
    module: nn.Module | None = None
    stored: list[Placed] = []
    kind, name = node.target, node.name
    if node.op == "call_module":
        path = str(node.target)
        module, name = modules[path], path or "the model"
        kind = type(module)
        tensors = (*module.parameters(), *module.buffers())
        if any(t.dtype != dtype for t in tensors if t.is_floating_point()):
            module = copy.deepcopy(module).to(dtype)
        stored = [p for p in placed if p.role == "activation" and p.owners[0][0] == path]
    elif node.op in ("call_function", "call_method"):
        name = f"{getattr(node.target, '__name__', node.target)} ({node.name} in the graph)"
    step = Step(
        node=node,
        name=name,
        kind=kind,
        module=module,
        weights=_weights_of(node, placed),
        stored=stored,
        last_use_of=last_use_of,
    )
    _check_in_place(step)
    return step


def _weights_of(node: fx.Node, placed: Sequence[Placed]) -> dict[str, Placed]:
    """Placed parameters within a module, or the parameter that a node fetches."""
    weights = [(owner, p) for p in placed if p.role == "weight" for owner in p.owners]
    paths = {f"{path}.{name}" if path else name: p for (path, name), p in weights}
    if node.op == "get_attr":
        return {path: p for path, p in paths.items() if path == node.target}
    prefix = f"{node.target}." if node.target else ""
    within = {path.removeprefix(prefix): p for path, p in paths.items() if path.startswith(prefix)}
    return within if node.op == "call_module" else {}


_IN_PLACE_OPERATORS = frozenset({"iadd", "isub", "imul", "itruediv", "imatmul", "ipow"})


def _check_in_place(step: Step) -> None:
    """Refuse to overwrite a value that is used again: the graph would give the old one.

    Raises:
        ModelError: naming the operation.
    """
    node = step.node
    inplace = getattr(step.module, "inplace", False) or node.kwargs.get("inplace", False)
    if node.op in ("call_method", "call_function"):
        called = str(getattr(node.target, "__name__", node.target))
        inplace = inplace or called.endswith("_") or called in _IN_PLACE_OPERATORS
    if inplace and node.args and node.args[0] not in step.last_use_of:
        raise ModelError(
            f"{step.name} works in place on a value that is used again later; allowed: in-place "
            'operations on values used once; or use method="first-order"'
        )


def _check_used_once(steps: Sequence[Step], placed: Sequence[Placed]) -> None:
    """Refuse placed tensors whose noise would be counted wrongly, or not at all.

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
