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

# Entries that are looked through at a time for the last one that is taken.
_AT_ONCE = 1 << 22


class Order:
    """The order of a flat tensor of numbers that are not negative, as a stable sort has it; of ranks, which entries."""

    def __init__(self, values: torch.Tensor, descending: bool) -> None:
        """values: [entries], float16, bfloat16 or float32."""
        # Numbers of the same order as the values.
        self.bits = values.contiguous().view(torch.int16 if values.element_size() == 2 else torch.int32)
        self.descending = descending
        self._counts: torch.Tensor | None = None

    def __getitem__(self, ranks: slice) -> torch.Tensor:
        """Return the entries of ranks [start:stop], as a mask [entries]."""
        first, last, step = ranks.indices(len(self.bits))
        if step != 1:
            raise NotImplementedError("ranks are taken one after another")
        chosen = self._before(last)
        if first > 0:
            chosen &= ~self._before(first)
        return chosen

    def _before(self, rank):
        """Return a mask [entries] of the entries of ranks below this one."""
        if rank <= 0:
            return torch.zeros_like(self.bits, dtype=torch.bool)
        if rank >= len(self.bits):
            return torch.ones_like(self.bits, dtype=torch.bool)
        edge, equal, wanted = self._edge(rank)
        beyond, among = (torch.gt, torch.ge) if self.descending else (torch.lt, torch.le)
        if wanted == equal:
            return among(self.bits, edge)
        chosen = torch.empty_like(self.bits, dtype=torch.bool)
        place = self._place(edge, wanted)
        among(self.bits[:place], edge, out=chosen[:place])
        beyond(self.bits[place:], edge, out=chosen[place:])
        return chosen

    def _edge(self, rank):
        """Return the bits of the entry before a rank, how many entries have them, and how many of these are taken."""
        if self._counts is None:
            self._counts = torch.bincount(_upper(self.bits), minlength=1 << 15)
        upper, equal, wanted = _bin_of(self._counts, rank, self.descending)
        if self.bits.element_size() == 2:
            return upper, equal, wanted
        # What came from 16 bits has nothing in the lower half.
        if int((self.bits == upper << 16).count_nonzero()) == equal:
            return upper << 16, equal, wanted
        lower = self.bits[_upper(self.bits) == upper] & 0xFFFF
        edge, equal, wanted = _bin_of(torch.bincount(lower, minlength=1 << 16), wanted, self.descending)
        return (upper << 16) + edge, equal, wanted

    def _place(self, edge, wanted):
        """Return the place behind the entry that is the `wanted`-th of those with these bits."""
        for begun in range(0, len(self.bits), _AT_ONCE):
            same = self.bits[begun : begun + _AT_ONCE] == edge
            if (found := int(same.count_nonzero())) >= wanted:
                return begun + int(same.nonzero()[wanted - 1]) + 1
            wanted -= found
        raise AssertionError("counts and entries disagree")


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
        return self.call(func, args, kwargs or {})

    def call(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a function of torch, or choose in place of a sort."""
        if func not in _SORTING or args[0].dim() != 1:
            return func(*args, **kwargs)
        order = self.order(args[0], kwargs.get("largest", kwargs.get("descending", False)))
        if func is torch.argsort:
            return order
        if func is torch.topk:
            # The values are those of the entries, which nobody asks for.
            return None, order[: kwargs["k"]]
        return _Sorted(order, lambda: func(*args, **kwargs))

    def order(self, values: torch.Tensor, descending: bool) -> Order:
        """Return the order of a flat tensor."""
        return Order(values, descending)


_SORTING = (torch.argsort, torch.sort, torch.topk)
