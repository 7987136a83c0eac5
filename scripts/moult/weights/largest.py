"""Which entries of a tensor are the largest: exact, of one order, and without sorting.

Methods that thin task vectors out by magnitude (Yadav et al. 2023, arXiv 2306.01708; Davari and Belilovsky 2023, arXiv
2312.06795; Wan et al. 2024, arXiv 2408.07990) keep the entries of some ranks. mergekit sorts for that, by a sort that
leaves open which of equal entries comes first; in bfloat16 nearly every tensor has equal ones at the edge. The bits of
numbers that are not negative, read as whole numbers, are in the order of the numbers: counted, they tell the value at a
rank, and of the entries that have it those that stand first are taken, as a stable sort has it.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from moult.weights.exact import ACCUMULATED, ONE, variance

# Entries of a block that is looked through.
_AT_ONCE = 1 << 17


class Order:
    """The order of numbers that are not negative, as a stable sort has it; of ranks, which entries have them."""

    def __init__(self, blocks: Callable[[], Iterable[torch.Tensor]], size: int, descending: bool) -> None:
        """blocks: yields the numbers, `size` of them, from first to last in flat blocks of float16, bfloat16 or
        float32."""
        self.blocks, self.size = blocks, size
        self.descending = descending
        self._counts: torch.Tensor | None = None

    def __getitem__(self, ranks: slice) -> torch.Tensor:
        """Return the entries of ranks [start:stop], as a mask [entries]."""
        first, last, step = ranks.indices(self.size)
        if step != 1:
            raise NotImplementedError("ranks are taken one after another")
        chosen = self.ranks(first, last)
        return torch.cat([chosen(block) for block in self.blocks()]).bool()

    def ranks(self, first: int, last: int) -> "Ranks":
        """Return what tells of one block after another which entries have ranks [first:last]."""
        return Ranks([self.edge(last), *([self.edge(first)] if first > 0 else [])], self.descending)

    def edge(self, rank: int) -> "Edge":
        """Return where the entries of ranks below this one end."""
        if rank <= 0 or rank >= self.size:
            return Edge(None, 0, all_=rank > 0)
        if self._counts is None:
            self._counts = self._counted(1 << 15, _upper)
        upper, equal, wanted = _bin_of(self._counts, rank, self.descending)
        if self._itemsize == 2:
            return Edge(upper, wanted, wanted == equal)
        lower = self._counted(1 << 16, lambda bits: bits[_upper(bits) == upper] & 0xFFFF)
        low, equal, wanted = _bin_of(lower, wanted, self.descending)
        return Edge((upper << 16) + low, wanted, wanted == equal)

    def _counted(self, bins, part):
        """Return how many entries have which part of their bits."""
        counts = torch.zeros(bins, dtype=torch.int64)
        for block in self.blocks():
            self._itemsize = block.element_size()
            counts += torch.bincount(part(_bits(block)), minlength=bins)
        return counts


@dataclass(frozen=True)
class Edge:
    """Where the entries of some ranks end: the bits of the last one, how many entries with these bits are taken, and
    whether these are all; without bits no entry is taken, or all."""

    bits: int | None
    taken: int
    all_: bool


class Ranks:
    """Tells of one block after another which entries have the ranks between two edges, as ones and zeros in whole
    numbers of as many bits."""

    def __init__(self, edges: list[Edge], descending: bool) -> None:
        self.edges = edges
        self.left = [edge.taken for edge in edges]
        self.beyond, self.among = (torch.gt, torch.ge) if descending else (torch.lt, torch.le)

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """values: [entries of the block]."""
        bits = _bits(values)
        chosen = self._below(0, bits)
        return chosen if len(self.edges) == 1 else chosen.sub_(self._below(1, bits))

    def _below(self, number, bits):
        edge, left = self.edges[number], self.left[number]
        if edge.bits is None:
            return torch.full_like(bits, int(edge.all_))
        chosen = torch.empty_like(bits)
        if edge.all_:
            return self.among(bits, edge.bits, out=chosen)
        if not left:
            return self.beyond(bits, edge.bits, out=chosen)
        same = bits == edge.bits
        place = len(bits)
        if (found := int(same.count_nonzero())) > left:
            place = int(same.nonzero()[left - 1]) + 1
        self.left[number] -= min(found, left)
        self.among(bits[:place], edge.bits, out=chosen[:place])
        self.beyond(bits[place:], edge.bits, out=chosen[place:])
        return chosen


def _bits(values):
    """Return numbers of the same order as the values."""
    return values.contiguous().view(ONE[values.dtype][0])


def _upper(bits):
    """Return the upper 16 bits of numbers of 16 or 32 bits."""
    if bits.element_size() == 2:
        return bits
    return bits.view(torch.int16)[sys.byteorder == "little" :: 2]


def _bin_of(counts, rank, descending):
    """Return (the bin in which the entry before a rank is, its entries, how many of them are before that rank)."""
    running = (counts.flip(0) if descending else counts).cumsum(0)
    place = int(torch.searchsorted(running, rank))
    inside = rank - (int(running[place - 1]) if place else 0)
    bin_ = len(counts) - 1 - place if descending else place
    return bin_, int(counts[bin_]), inside


@dataclass(frozen=True)
class _Sorted:
    """The result of a sort of which the order is asked for; unpacked, it is sorted after all."""

    indices: Order
    sort: Callable[[], Iterable[torch.Tensor]]

    def __iter__(self) -> Iterator[torch.Tensor]:
        with torch._C.DisableTorchFunction():
            return iter(self.sort())


class Largest(TorchFunctionMode):
    """Within it, flat tensors are not sorted to find entries by rank: they are chosen, of equal ones the first."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, or choose in place of a sort."""
        kwargs = kwargs or {}
        if func in _SORTING and args[0].dim() == 1:
            values = args[0]
            descending = kwargs.get("largest", kwargs.get("descending", False))
            order = Order(lambda: values.split(_AT_ONCE), len(values), descending)
            if func is torch.argsort:
                return order
            if func is torch.topk:
                # The values are those of the entries, which nobody asks for.
                return None, order[: kwargs["k"]]
            return _Sorted(order, lambda: func(*args, **kwargs))
        if func is torch.var and kwargs == {"dim": 0, "unbiased": False} and args[0].dtype in ACCUMULATED:
            return variance(args[0])
        return func(*args, **kwargs)


_SORTING = (torch.argsort, torch.sort, torch.topk)
