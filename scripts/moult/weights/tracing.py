"""Merges of a tensor are traced first, and reckoned later: what several of them reckon alike is then reckoned once.

A traced tensor has a shape and a dtype, but no values: what a method of mergekit does with it becomes a graph, in which
the same function of the same tensors is one node. A graph holds only what each entry depends on alone, what is known of
a whole tensor (sums, ranks), and draws; so `blocks` can reckon it block by block. A method that does anything else is
not traced, and called with the tensors themselves.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from moult.weights.exact import ACCUMULATED, ONE, filled, numbers, sum_of_first, variance
from moult.weights.graph import (
    MOST,
    Call,
    Chosen,
    Compare,
    Drawn,
    Empty,
    Full,
    Graph,
    Node,
    NotTracedError,
    Stack,
    Stream,
)

# Functions whose result for an entry depends on that entry alone and is rounded exactly: the same bits in any block.
_ENTRYWISE = {
    *("add", "sub", "rsub", "mul", "div", "neg", "abs", "sign", "square", "clamp", "minimum", "maximum", "addcmul"),
}
_COMPARING = {"eq", "ne", "lt", "le", "gt", "ge"}
_CASTS = {"float": torch.float32, "double": torch.float64, "half": torch.float16, "bfloat16": torch.bfloat16}
_RESHAPING = {"view", "reshape", "reshape_as", "flatten", "unsqueeze"}
# Functions of a whole tensor that result in few numbers.
_WHOLE = {"sum", "mean", "count_nonzero", "norm", "max", "min"}
_FEW = _ENTRYWISE | _COMPARING | _CASTS.keys() | _RESHAPING | _WHOLE | {"to", "sqrt", "ones_like", "zeros_like"}
_ASKING = {"bool", "int", "float", "index", "item"}
_TELLING = {"__get__", "dim", "numel", "size", "is_floating_point", "is_contiguous", "element_size"}


class WantedError(Exception):
    """What comes next depends on a value that is not known yet."""


@dataclass
class _Memory:
    """What a tensor and its views share. Nobody may write to it where it is frozen."""

    tensors: list["Traced"] = field(default_factory=list)
    frozen: bool = False


class Traced(torch.Tensor):
    """A tensor without values."""

    node: Node
    memory: _Memory
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, node: Node, memory: _Memory | None = None) -> "Traced":
        """Return the tensor that a node describes; memory: what it shares with others."""
        made = torch.Tensor._make_wrapper_subclass(cls, node.shape, dtype=node.dtype, device="cpu")
        made.node, made.memory = node, memory or _Memory()
        made.memory.tensors.append(made)
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse what went past the tracing."""
        raise NotTracedError(str(func))


class Tracing(TorchFunctionMode):
    """Within it, what is done with traced tensors becomes part of a graph.

    state: the generator's, from which draws come. stable: of equally large entries the first are kept; else a choice by
    rank is not traced.
    """

    def __init__(self, graph: Graph, state: torch.Tensor, stable: bool) -> None:
        super().__init__()
        self.graph, self.stable = graph, stable
        self.stream = Stream(state.numpy().tobytes())

    def given(self, tensor: torch.Tensor) -> Traced:
        """Return a tensor that is given, without its values."""
        return Traced(self.graph.given[id(tensor)], _Memory(frozen=True))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Trace a function of traced tensors, and call any other."""
        kwargs = dict(kwargs or {})
        if func is torch.zeros and kwargs.keys() <= {"dtype", "device"} and (made := self._zeros(*args, **kwargs)):
            return made[0]
        if not any(map(_is_traced, (*args, *kwargs.values()))) or func.__name__ in _TELLING:
            return func(*args, **kwargs)
        if "input" in kwargs:
            args = (kwargs.pop("input"), *args)
        return self._traced(func, args, kwargs)

    def _traced(self, func, args, kwargs):
        name = func.__name__
        if name.endswith("_") and not name.endswith("__"):
            return self._in_place(getattr(torch.Tensor, name[:-1]), args, kwargs)
        dunder, name = name.startswith("__"), name.strip("_")
        if dunder and name in _ASKING or name == "item":
            return self._asked(func, *args)
        if rule := _RULES.get(name):
            try:
                return rule(self, *args, **kwargs)
            except TypeError as error:
                # It is called with what the rule does not know.
                raise NotTracedError(name) from error
        if name in _CASTS:
            return self._to(args[0], _CASTS[name], **kwargs)
        nodes = [self._node(one) for one in args]
        few = all(one.few for one in nodes if isinstance(one, Node))
        if few and name in _FEW or name in _WHOLE:
            return Traced(self._few(func, nodes, kwargs))
        if name in _RESHAPING:
            return self._reshaped(func, args, kwargs)
        if name in _ENTRYWISE | _COMPARING:
            return Traced(self._entrywise(func, name, nodes, kwargs))
        raise NotTracedError(name)

    def _node(self, argument):
        """Return an argument as the input of a node."""
        if isinstance(argument, Traced):
            return argument.node
        if isinstance(argument, torch.Tensor):
            return self.graph.constant(argument)
        if isinstance(argument, (int, float, bool, str, torch.dtype, type(None))):
            return argument
        if isinstance(argument, (tuple, list)) and all(isinstance(one, int) for one in argument):
            return tuple(argument)
        raise NotTracedError(f"an argument of {type(argument)}")

    def _asked(self, func, tensor):
        if not tensor.node.few:
            raise NotTracedError("a value of many")
        if tensor.node.value is None:
            raise WantedError
        return func(tensor.node.value)

    def _few(self, func, nodes, kwargs):
        """Return the node of few numbers, made of whole tensors or of few numbers."""
        inputs = [self.graph.held_as(one, one.dtype) if isinstance(one, Node) else one for one in nodes]
        call = Call(func, tuple(sorted((key, self._node(value)) for key, value in kwargs.items())))
        like = call(*[one.meta() if isinstance(one, Node) else one for one in inputs])
        if not isinstance(like, torch.Tensor) or like.numel() > MOST:
            raise NotTracedError(func.__name__)
        return self.graph.node(call, inputs, like.shape, like.dtype, few=True)

    def _entrywise(self, func, name, nodes, kwargs):
        """Return the node of a function of entries."""
        if kwargs and (name != "clamp" or any(isinstance(value, torch.Tensor) for value in kwargs.values())):
            raise NotTracedError(f"{name} with keywords")
        call = Call(func, tuple(sorted(kwargs.items())))
        tensors = [one for one in nodes if isinstance(one, Node)]
        shape = _broadcast([one.shape for one in tensors])
        for one in tensors:
            if one.few:
                self._refuse_rows(one, shape)
        dtype = call(*[one.one() if isinstance(one, Node) else one for one in nodes]).dtype
        dtypes = {one.dtype for one in tensors}
        if name in _COMPARING and len(dtypes) == 1 and dtypes <= ONE.keys():
            if not isinstance(nodes[0], Node):
                raise NotTracedError(name)
            return self.graph.node(Compare(name), nodes, shape, dtype, stored=next(iter(dtypes)))
        # A mask as a factor is ones and zeros.
        masks = dtype if name == "mul" else torch.bool
        held = [self.graph.held_as(one, masks) if one in tensors and one.dtype == torch.bool else one for one in nodes]
        return self.graph.node(call, held, shape, dtype, magnitudes=name == "abs")

    def _refuse_rows(self, node, shape):
        """Refuse few numbers that differ from row to row."""
        _, flat = self.graph.place(shape)
        behind = 1 if flat else len(self.graph.shape)
        if len(node.shape) >= behind and node.shape[-behind] != 1:
            raise NotTracedError("a number for each row")

    def _in_place(self, func, args, kwargs):
        """Write the result of a function into its first argument."""
        target = args[0]
        if not isinstance(target, Traced) or func.__name__ not in _ENTRYWISE:
            raise NotTracedError(f"{func.__name__}_")
        node = self._entrywise(func, func.__name__, [self._node(one) for one in args], kwargs)
        self._write(target, self.graph.cast(node, target.dtype) if node.dtype != target.dtype else node)
        return target

    def _write(self, target, node):
        """Let a tensor, and what shares its memory, have the values of a node."""
        if target.memory.frozen or node.shape != tuple(target.shape):
            raise NotTracedError("writing to a tensor that is given, or a part of another")
        for one in target.memory.tensors:
            one.node = node if one.shape == target.shape else self.graph.reshaped(node, one.shape)

    def _reshaped(self, func, args, kwargs):
        tensor = args[0]
        given = [one.node.meta() if isinstance(one, Traced) else one for one in args]
        like = func(*given, **kwargs)
        if like.dtype != tensor.dtype:
            raise NotTracedError("the bits of a tensor")
        return Traced(self.graph.reshaped(tensor.node, like.shape), tensor.memory)

    def _to(self, tensor, dtype=None, **kwargs):
        if not isinstance(dtype, torch.dtype) or kwargs:
            raise NotTracedError("to")
        return tensor if tensor.dtype == dtype else Traced(self.graph.cast(tensor.node, dtype))

    def _full(self, shape, value, dtype):
        if repr(value) == "-0.0":
            # It would be taken for 0.
            raise NotTracedError("zeros with a sign")
        return Traced(self.graph.node(Full(value), (), shape, dtype))

    def _zeros(self, *shape, dtype=None, device=None):
        """Return zeros where they have the shape of what is traced, else none."""
        shape = shape[0] if isinstance(shape[0], Sequence) else shape
        if tuple(shape) not in (self.graph.shape, (self.graph.size,)):
            return []
        return [self._full(shape, 0.0, dtype or torch.get_default_dtype())]

    def _zeros_like(self, tensor, dtype=None):
        return self._full_like(tensor, 0.0, dtype)

    def _ones_like(self, tensor, dtype=None):
        return self._full_like(tensor, 1.0, dtype)

    def _full_like(self, tensor, fill_value, dtype=None):
        dtype = dtype or tensor.dtype
        if tensor.node.few:
            return Traced(self.graph.constant(torch.full(tensor.shape, fill_value, dtype=dtype)))
        return self._full(tensor.shape, float(fill_value), dtype)

    def _new_empty(self, tensor, *shape):
        shape = shape[0] if isinstance(shape[0], Sequence) else shape
        return Traced(self.graph.node(Empty(), (), shape, tensor.dtype))

    def _stack(self, tensors, dim=0):
        if dim != 0 or not all(isinstance(one, Traced) for one in tensors):
            raise NotTracedError("stack")
        return Traced(self._stacked([one.node for one in tensors]))

    def _stacked(self, nodes):
        known = [one for one in nodes if one is not None]
        if len({(one.dtype, one.shape, one.stored) for one in known}) > 1 or known[0].lead or known[0].few:
            raise NotTracedError("stack")
        shape = len(nodes), *known[0].shape
        return self.graph.node(Stack(), nodes, shape, known[0].dtype, stored=known[0].stored)

    def _getitem(self, tensor, index):
        node = tensor.node
        if type(index) is not int or not node.lead or not 0 <= index < node.shape[0]:
            raise NotTracedError("a part of a tensor")
        tensor.memory.frozen = True
        kept = {"stored": node.stored, "magnitudes": node.magnitudes}
        part = self.graph.node(Call(operator.getitem), (node, index), node.shape[1:], node.dtype, **kept)
        return Traced(part, tensor.memory)

    def _unbind(self, tensor, dim=0):
        if dim != 0 or not tensor.node.lead:
            raise NotTracedError("unbind")
        return tuple(self._getitem(tensor, place) for place in range(len(tensor)))

    def _setitem(self, tensor, index, value):
        node = tensor.node if isinstance(tensor, Traced) else None
        if node is None or node.few:
            raise NotTracedError("setting entries of a tensor that is not traced")
        if type(index) is int and node.lead and isinstance(value, Traced) and tuple(value.shape) == node.shape[1:]:
            if not isinstance(node.kernel, (Empty, Stack)) or not 0 <= index < node.shape[0]:
                raise NotTracedError("setting a part of a tensor")
            parts = list(node.inputs) or [None] * node.shape[0]
            part = value.node
            parts[index] = part if part.dtype == node.dtype else self.graph.cast(part, node.dtype)
            self._write(tensor, self._stacked(parts))
            return
        fits = isinstance(index, Traced) and index.dtype is torch.bool and index.shape == tensor.shape
        if not fits or type(value) not in (int, float) or node.dtype not in ONE | {torch.int8: None}:
            raise NotTracedError("setting entries")
        if node.kernel == Full(0.0) and value == 1:
            self._write(tensor, self.graph.cast(index.node, node.dtype))
        elif node.dtype in ONE:
            inputs = node, self.graph.held_as(index.node, node.dtype), value
            self._write(tensor, self.graph.node(Call(filled), inputs, node.shape, node.dtype))
        else:
            raise NotTracedError("setting entries")

    def _sum(self, tensor, **kwargs):
        node = tensor.node
        if kwargs != {"dim": 0} or node.few or not node.lead:
            return Traced(self._few(torch.sum, [node], kwargs))
        node = self.graph.held_as(node, torch.int64) if node.dtype == torch.bool else node
        return Traced(self.graph.node(Call(sum_of_first), (node,), node.shape[1:], node.one().sum(dim=0).dtype))

    def _var(self, tensor, **kwargs):
        node = tensor.node
        if kwargs != {"dim": 0, "unbiased": False} or not node.lead or node.dtype not in ACCUMULATED:
            raise NotTracedError("var")
        kinds = {"magnitudes": True, "costly": True}
        return Traced(self.graph.node(Call(variance), (node,), node.shape[1:], node.dtype, **kinds))

    def _bernoulli(self, tensor):
        node = tensor.node
        if not isinstance(node.kernel, Full) or node.lead or node.dtype not in ONE:
            raise NotTracedError("bernoulli")
        probability = float(torch.tensor(node.kernel.value, dtype=node.dtype))
        mask = self.graph.node(Drawn(self.stream, probability), (), node.shape, torch.bool)
        self.stream = Stream(self.stream.state, self.stream.drawn + self.graph.size)
        return Traced(self.graph.cast(mask, node.dtype))

    def _argsort(self, tensor, descending=False):
        return _Ranked(self, tensor, descending)

    def _sort(self, tensor, descending=False):
        return _Ranked(self, tensor, descending)

    def _topk(self, tensor, k, largest=True):
        # The values are those of the entries, which nobody asks for.
        return None, _Ranked(self, tensor, largest)[:k]


@dataclass
class _Ranked:
    """The order of a flat tensor of magnitudes."""

    tracing: Tracing
    tensor: Traced
    descending: bool

    def __post_init__(self) -> None:
        node = self.tensor.node
        if not self.tracing.stable or not node.magnitudes or node.shape != (self.tracing.graph.size,):
            raise NotTracedError("an order")

    @property
    def indices(self) -> "_Ranked":
        """What a sort returns beside the values."""
        return self

    def __getitem__(self, ranks: slice) -> Traced:
        """Return the entries of ranks [start:stop], as a mask."""
        graph, node = self.tracing.graph, self.tensor.node
        first, last, step = ranks.indices(graph.size)
        widened = node.dtype == torch.float32 and isinstance(node.kernel, Call) and node.kernel.func is numbers
        if widened and node.inputs[0].dtype in (torch.bfloat16, torch.float16):
            # The order of one is that of the other, and takes half as long to find.
            node = node.inputs[0]
        if step != 1 or node.dtype not in ONE:
            raise NotTracedError("an order")
        kernel = Chosen(self.descending, first, last)
        return Traced(graph.node(kernel, (node,), node.shape, torch.bool, stored=ONE[node.dtype][0]))


def _is_traced(argument):
    return isinstance(argument, Traced) or isinstance(argument, (tuple, list)) and any(map(_is_traced, argument))


def _broadcast(shapes):
    """Return the shape that tensors of these shapes have together; torch takes its time for that."""
    most = max(map(len, shapes))
    columns = [set(column) - {1} for column in zip(*[(1,) * (most - len(one)) + one for one in shapes], strict=True)]
    if any(len(column) > 1 for column in columns):
        raise NotTracedError("tensors of other shapes")
    return tuple(min(column, default=1) for column in columns)


_RULES: Mapping[str, Callable[..., Any]] = {
    name: getattr(Tracing, f"_{name}")
    for name in (
        *("to", "zeros_like", "ones_like", "full_like", "new_empty", "stack", "unbind", "getitem", "setitem"),
        *("sum", "var", "bernoulli", "argsort", "sort", "topk"),
    )
}
