"""What merges do with the tensors of one name, as a graph: the same function of the same tensors is one node."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from moult.weights.exact import compared, numbers

# The most numbers that are few. Tensors that are traced have more.
MOST = 1024


class NotTracedError(Exception):
    """A function of which it is not known that it can be reckoned in blocks."""


@dataclass(frozen=True)
class Call:
    """A function with its keywords, as the kernel of a node."""

    func: Callable[..., Any]
    keywords: tuple[tuple[str, Any], ...] = ()

    def __call__(self, *inputs: Any) -> Any:
        return self.func(*inputs, **dict(self.keywords))


@dataclass(frozen=True)
class Compare:
    """A comparison, as the kernel of a node whose ones and zeros are held in the dtype of what is compared."""

    name: str

    def __call__(self, values: torch.Tensor, other: Any) -> torch.Tensor:
        return compared(self.name, values, other)


@dataclass(frozen=True)
class Reshape:
    """Nothing but another shape."""


@dataclass(frozen=True)
class Full:
    """The same value everywhere."""

    value: float


@dataclass(frozen=True)
class Empty:
    """No value anywhere, until it is set."""


@dataclass(frozen=True)
class Stack:
    """Tensors behind one another."""


@dataclass(frozen=True)
class Chosen:
    """The entries of some ranks, as a mask."""

    descending: bool
    first: int
    last: int


@dataclass(frozen=True)
class Stream:
    """A place in a stream of random numbers: so many entries behind a state of torch's generator."""

    state: bytes
    drawn: int = 0


@dataclass(frozen=True)
class Drawn:
    """Entries drawn with a probability, as a mask."""

    stream: Stream
    probability: float


@dataclass(eq=False)
class Node:
    """A function of tensors: its kernel, and what it is called with, nodes among it.

    stored: the dtype that a block has; of a mask any, for ones and zeros. lead: how many dimensions stand before the
    rows. flat: rows and columns are one dimension. few: it is made of whole tensors, and has few numbers. costly: it is
    reckoned once, and held as a whole.
    """

    # Of a node whose value is given: None.
    kernel: Any
    inputs: tuple[Any, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    stored: torch.dtype
    lead: int = 0
    flat: bool = False
    few: bool = False
    costly: bool = False
    # Whether no number is below 0.
    magnitudes: bool = False
    value: torch.Tensor | None = None

    def one(self) -> torch.Tensor:
        """Return a tensor of as many dimensions, with one entry: what a function makes of it has the right dtype."""
        return torch.ones((1,) * len(self.shape), dtype=self.dtype)

    def meta(self) -> torch.Tensor:
        """Return a tensor of its shape on torch's meta device: what a function makes of it has the right shape."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")


class Graph:
    """What merges do with the tensors of one name.

    given: their values; all have one shape, and more than MOST entries.
    """

    def __init__(self, given: Sequence[torch.Tensor]) -> None:
        self.shape, self.size = tuple(given[0].shape), given[0].numel()
        self.nodes: dict[Hashable, Node] = {}
        self.given = {id(one): Node(None, (), self.shape, one.dtype, one.dtype, value=one) for one in given}

    def node(
        self, kernel: Any, inputs: Sequence[Any], shape: Sequence[int], dtype: torch.dtype, **further: Any
    ) -> Node:
        """Return the node of a function, the same for the same."""
        if any(isinstance(one, Node) and not _is_whole(one) for one in inputs):
            raise NotTracedError("a tensor that is not filled yet")
        key = kernel, tuple(map(_key, inputs)), tuple(shape), dtype, further.get("few")
        if key not in self.nodes:
            lead, flat = (0, False) if further.get("few") else self.place(shape)
            stored = further.pop("stored", dtype)
            self.nodes[key] = Node(kernel, tuple(inputs), tuple(shape), dtype, stored, lead, flat, **further)
        return self.nodes[key]

    def place(self, shape: Sequence[int]) -> tuple[int, bool]:
        """Return how many dimensions stand before the rows, and whether rows and columns are one dimension."""
        for lead in (0, 1):
            if tuple(shape[lead:]) in (self.shape, (self.size,)):
                return lead, tuple(shape[lead:]) != self.shape
        raise NotTracedError(f"a tensor of shape {tuple(shape)}")

    def constant(self, tensor: torch.Tensor) -> Node:
        """Return the node of a tensor of few numbers."""
        if tensor.numel() > MOST:
            raise NotTracedError("a tensor of another origin")
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        key = tuple(tensor.shape), tensor.dtype, tensor.flatten().view(torch.uint8).numpy().tobytes()
        if key not in self.nodes:
            shape = tuple(tensor.shape)
            self.nodes[key] = Node(None, (), shape, tensor.dtype, tensor.dtype, few=True, value=tensor)
        return self.nodes[key]

    def held_as(self, node: Node, dtype: torch.dtype) -> Node:
        """Return a mask whose ones and zeros are held in a dtype."""
        return node if node.stored == dtype or node.few else self.cast(node, dtype)

    def cast(self, node: Node, dtype: torch.dtype) -> Node:
        """Return a node in another dtype."""
        if node.few:
            return self.node(Call(torch.Tensor.to), (node, dtype), node.shape, dtype, few=True)
        return self.node(Call(numbers), (node, dtype), node.shape, dtype, magnitudes=node.magnitudes)

    def reshaped(self, node: Node, shape: Sequence[int]) -> Node:
        """Return a node in another shape."""
        if node.few:
            return self.node(Call(torch.Tensor.reshape), (node, tuple(shape)), shape, node.dtype, few=True)
        kernel, inputs = (node.kernel, ()) if isinstance(node.kernel, Full) else (Reshape(), (node,))
        return self.node(kernel, inputs, shape, node.dtype, stored=node.stored, magnitudes=node.magnitudes)

    def close(self) -> None:
        """Let go of all values: what was traced may still refer to it."""
        for node in (*self.nodes.values(), *self.given.values()):
            node.value = None
        self.nodes.clear()
        self.given.clear()


def _is_whole(node):
    """Whether all entries of a node are set."""
    return not isinstance(node.kernel, Empty) and None not in (node.inputs if isinstance(node.kernel, Stack) else ())


def _key(argument):
    """Return what tells an input from others: 1 and True are equal, as are 0 and -0."""
    return type(argument), repr(argument) if isinstance(argument, float) else argument
