"""Which entries of a tensor are the largest: exact, of one order, and without sorting.

Methods that thin task vectors out by magnitude (Yadav et al. 2023, arXiv 2306.01708; Davari and Belilovsky 2023, arXiv
2312.06795; Wan et al. 2024, arXiv 2408.07990) keep the entries of some ranks. mergekit sorts for that, by a sort that
leaves open which of equal entries comes first; in bfloat16 nearly every tensor has equal ones at the edge. The bits of
numbers that are not negative, read as whole numbers, are in the order of the numbers: counted, they tell the value at a
rank, and of the entries that have it those that stand first are taken, as a stable sort has it.
"""

import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# Entries that are looked through at a time for the last one that is taken.
_AT_ONCE = 1 << 16


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
    """Within it, flat tensors are not sorted to find entries by rank: they are chosen, of equal ones the first.

    What stands around the choice costs less, too, with the same bits: variances and sums of few tensors, and masks as
    factors.
    """

    def __init__(self) -> None:
        super().__init__()
        # By identity, a tensor in 32 bits → the one in 16 bits that it was made of.
        self.narrow: dict[int, tuple[weakref.ref, torch.Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return self.call(func, args, kwargs or {})

    def call(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a function of torch, or choose in place of a sort."""
        if func in _SORTING and args[0].dim() == 1:
            order = self.order(args[0], kwargs.get("largest", kwargs.get("descending", False)))
            if func is torch.argsort:
                return order
            if func is torch.topk:
                # The values are those of the entries, which nobody asks for.
                return None, order[: kwargs["k"]]
            return _Sorted(order, lambda: func(*args, **kwargs))
        if func is torch.var and kwargs == {"dim": 0, "unbiased": False} and args[0].dtype in _ACCUMULATED:
            return variance(args[0])
        if func is torch.Tensor.__setitem__ and len(args) == 3 and _fits(args[0], args[1]) and type(args[2]) is int:
            return _fill(*args)
        if func is torch.Tensor.mul and len(args) == 2 and _is_mask(args[1]) and args[0].dtype in _ONE:
            return args[0].mul(_as_numbers(args[1], args[0].dtype))
        if func is torch.Tensor.to and len(args) == 2 and _is_mask(args[0]) and args[1] in _ONE:
            return _as_numbers(*args)
        if func is torch.Tensor.sum and kwargs == {"dim": 0} and len(args) == 1 and _are_two(args[0]):
            # A sum begins with 0, which makes -0 to 0.
            return args[0][0].add(args[0][1]).add_(0)
        result = func(*args, **kwargs)
        if func is torch.Tensor.float and args[0].element_size() == 2 and args[0].is_floating_point():
            # The order of one is that of the other, and takes half as long to find.
            self.narrow = {id(result): (weakref.ref(result), args[0])}
        return result

    def order(self, values: torch.Tensor, descending: bool) -> Order:
        """Return the order of a flat tensor."""
        made, narrow = self.narrow.get(id(values), (lambda: None, values))
        return Order(narrow if made() is values else values, descending)


def _is_mask(index):
    return isinstance(index, torch.Tensor) and index.dtype is torch.bool


def _fits(tensor, index):
    """Whether entries of a tensor in 16 bits are set by a mask of its shape."""
    plain = _is_mask(index) and index.shape == tensor.shape and index.is_contiguous() and tensor.is_contiguous()
    return plain and tensor.dtype in _ONE and tensor.element_size() == 2


def _are_two(tensor):
    return tensor.dim() > 1 and len(tensor) == 2 and tensor.dtype in _ONE


def _as_numbers(mask, dtype):
    """Return a mask as ones and zeros: `mask.to(dtype)`, which goes through the entries one by one."""
    if not mask.is_contiguous():
        return mask.to(dtype)
    whole, one = _ONE[dtype]
    return mask.view(torch.uint8).to(whole).mul_(one).view(dtype)


def _fill(tensor, mask, value):
    """Set the entries of a mask: `tensor[mask] = value`, bit by bit."""
    bits, pattern = tensor.view(torch.int16), int(torch.tensor(value, dtype=tensor.dtype).view(torch.int16))
    chosen = mask.view(torch.uint8).to(torch.int16).neg_()
    bits.bitwise_and_(chosen.bitwise_not()).bitwise_or_(chosen.bitwise_and_(pattern))


def variance(tensors: torch.Tensor) -> torch.Tensor:
    """Return the variance (of all, not of a sample) between tensors [tensors, ...]: `torch.var`, of which it has the
    bits, goes through each column alone.

    Welford's recurrence (1962, Technometrics 4, page 419) in float64, as torch has it.
    """
    flat = tensors.reshape(len(tensors), -1)
    result = torch.empty(flat.shape[1], dtype=tensors.dtype)
    for begun in range(0, flat.shape[1], _IN_CACHE):
        part = flat[:, begun : begun + _IN_CACHE].double()
        mean, squares = part[0].clone(), torch.zeros_like(part[0])
        for number, row in enumerate(part[1:], start=2):
            distance = row - mean
            mean += distance / number
            squares += distance * (row - mean)
        result[begun : begun + _IN_CACHE] = squares / len(part)
    return result.reshape(tensors.shape[1:])


_SORTING = (torch.argsort, torch.sort, torch.topk)
# Numbers whose variance torch accumulates in float64, and how many columns of it stay in a processor's cache.
_ACCUMULATED = (torch.bfloat16, torch.float16, torch.float32)
_IN_CACHE = 1 << 15
# Numbers → whole numbers of as many bits, and the bits of 1.
_ONE = {
    torch.bfloat16: (torch.int16, 0x3F80),
    torch.float16: (torch.int16, 0x3C00),
    torch.float32: (torch.int32, 0x3F800000),
}
