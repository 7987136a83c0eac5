"""What merges of a tensor were traced to do is done block by block: what a block needs stays in a processor's cache.

Little is done to whole tensors before: ranks take a pass that counts; torch adds sums in an order that hangs on the
whole; draws come one after another.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from moult.weights.exact import one_thread
from moult.weights.graph import Chosen, Drawn, Full, Graph, Node, Reshape, Stack, Stream
from moult.weights.largest import Order

# Entries of a block, for each thread; all blocks but the last have a multiple of VECTORS.
ENTRIES, VECTORS = 1 << 18, 64


class Blocks:
    """Reckons a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.rows = graph.shape[0]
        self.width = graph.size // self.rows
        # Where a vector does not fit any more is then where it is in the whole tensor.
        unit = VECTORS // math.gcd(VECTORS, self.width)
        self.step = max(1, ENTRIES * torch.get_num_threads() // (self.width * unit)) * unit
        self.orders: dict[tuple[Node, bool], Order] = {}
        # Places in a stream of random numbers → the generator's state there.
        self.states: dict[Stream, torch.Tensor] = {}

    def find_few(self) -> None:
        """Find all that are few numbers, and what is drawn."""
        nodes = list(self.graph.nodes.values())
        self._draw([node for node in nodes if isinstance(node.kernel, Drawn) and node.value is None])
        for node in nodes:
            if node.few:
                self.whole(node)

    def after(self, stream: Stream) -> torch.Tensor:
        """Return the generator's state at a place in a stream up to which all is drawn."""
        return self.states[stream]

    def run(self, outputs: Sequence[Node]) -> Iterator[list[torch.Tensor]]:
        """Yield the blocks of nodes, from the first rows to the last; they hold until the next are asked for."""
        program = _Program(self, outputs)
        for begun in range(0, self.rows, self.step):
            yield program(begun, min(begun + self.step, self.rows))

    def shape(self, node: Node, rows: int) -> tuple[int, ...]:
        """Return the shape of a node's block of so many rows."""
        its = (rows * self.width,) if node.flat else (rows, *self.graph.shape[1:])
        return (*node.shape[: node.lead], *its)

    def part(self, node: Node, value: torch.Tensor, begun: int, ended: int) -> torch.Tensor:
        """Return the rows [begun:ended] of a node's whole value."""
        scale = self.width if node.flat else 1
        return value.narrow(node.lead, begun * scale, (ended - begun) * scale)

    def ranks(self, node: Node) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what chooses entries by their ranks, block after block."""
        kernel, values = node.kernel, node.inputs[0]
        key = values, kernel.descending
        if key not in self.orders:
            self.orders[key] = Order(lambda: (block for (block,) in self.run([values])), self.graph.size, key[1])
        return self.orders[key].ranks(kernel.first, kernel.last)

    def whole(self, node: Any) -> Any:
        """Return the whole value of a node."""
        if not isinstance(node, Node):
            return node
        if node.value is not None:
            return node.value
        if node.few:
            inputs = [self.whole(one) for one in node.inputs]
            with one_thread():
                node.value = node.kernel(*inputs)
            return node.value
        value = torch.empty(node.shape, dtype=node.stored)
        begun = 0
        for (block,) in self.run([node]):
            ended = min(begun + self.step, self.rows)
            self.part(node, value, begun, ended).copy_(block)
            begun = ended
        node.value = value if node.costly else None
        return value

    def _draw(self, nodes: Iterable[Node]) -> None:
        """Draw masks. Those of one place differ by their probability alone, and are drawn together.

        torch.bernoulli is the comparison of a uniform float32 with the probability, entry after entry.
        """
        places: dict[Stream, list[Node]] = {}
        for node in nodes:
            places.setdefault(node.kernel.stream, []).append(node)
        for stream in sorted(places, key=lambda one: one.drawn):
            if not stream.drawn:
                self.states[stream] = torch.frombuffer(bytearray(stream.state), dtype=torch.uint8)
            generator = torch.Generator()
            generator.set_state(self.states[stream])
            masks = [torch.empty(node.shape, dtype=torch.bool) for node in places[stream]]
            for begun in range(0, self.graph.size, ENTRIES):
                uniform = torch.empty(min(ENTRIES, self.graph.size - begun)).uniform_(generator=generator)
                for node, mask in zip(places[stream], masks, strict=True):
                    torch.lt(uniform, node.kernel.probability, out=mask.view(-1)[begun : begun + ENTRIES])
            for node, mask in zip(places[stream], masks, strict=True):
                node.value = mask
            self.states[Stream(stream.state, stream.drawn + self.graph.size)] = generator.get_state()


@dataclass
class _Program:
    """The functions of a graph that some nodes need, in order, for one block after another.

    Values stand in registers: 0 and 1 are the block's first and last row, and each constant has one.
    """

    blocks: Blocks
    outputs: Sequence[Node]
    registers: list[Any] = field(default_factory=lambda: [None, None])

    def __post_init__(self) -> None:
        self.places: dict[Node, int] = {}
        # (function, the registers of its arguments, that of its result)
        self.steps: list[tuple[Callable[..., Any], list[int], int]] = []
        for node in self.outputs:
            self._add(node)
        last: dict[int, int] = {}
        for number, (_, arguments, result) in enumerate(self.steps):
            last |= dict.fromkeys([*arguments, result], number)
        kept = {self.places[node] for node in self.outputs}
        made = {result for *_, result in self.steps} - kept
        self.done: list[list[int]] = [[] for _ in self.steps]
        for place, number in last.items():
            if place in made:
                self.done[number].append(place)

    def __call__(self, begun: int, ended: int) -> list[torch.Tensor]:
        registers = self.registers
        registers[:2] = begun, ended
        for (function, arguments, result), done in zip(self.steps, self.done, strict=True):
            registers[result] = function(*[registers[place] for place in arguments])
            for place in done:
                registers[place] = None
        return [registers[self.places[node]] for node in self.outputs]

    def _register(self, value=None):
        self.registers.append(value)
        return len(self.registers) - 1

    def _add(self, node: Any) -> int:
        """Add what reckons a node, and return its register."""
        if not isinstance(node, Node):
            return self._register(node)
        if node not in self.places:
            if node.few:
                self.places[node] = self._register(self.blocks.whole(node))
            else:
                function, arguments = self._function(node)
                # Its register comes after those of its arguments.
                self.places[node] = self._register()
                self.steps.append((function, arguments, self.places[node]))
        return self.places[node]

    def _function(self, node):
        """Return the function that makes a node's block, and the registers of its arguments."""
        blocks, kernel, rows = self.blocks, node.kernel, [0, 1]
        if node.costly and node not in self.outputs:
            blocks.whole(node)
        if (value := node.value) is not None:
            return lambda begun, ended: blocks.part(node, value, begun, ended), rows
        if isinstance(kernel, Full):
            one = torch.full((1,) * len(node.shape), kernel.value, dtype=node.dtype)
            return lambda begun, ended: one.expand(blocks.shape(node, ended - begun)), rows
        inputs = [self._add(one) for one in node.inputs]
        if isinstance(kernel, Reshape):
            return lambda x, begun, ended: x.reshape(blocks.shape(node, ended - begun)), [*inputs, *rows]
        if isinstance(kernel, Chosen):
            return blocks.ranks(node), inputs
        if isinstance(kernel, Stack):
            return lambda *parts: torch.stack(parts), inputs
        return kernel, inputs
