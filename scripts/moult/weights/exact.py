"""What torch does with tensors, bit for bit, in less time: masks as ones and zeros, sums of two, variances."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

# Numbers → whole numbers of as many bits, and the bits of 1.
ONE = {
    torch.bfloat16: (torch.int16, 0x3F80),
    torch.float16: (torch.int16, 0x3C00),
    torch.float32: (torch.int32, 0x3F800000),
}
# Numbers whose variance torch accumulates in float64, and how many columns of it stay in a processor's cache.
ACCUMULATED = (torch.bfloat16, torch.float16, torch.float32)
_IN_CACHE = 1 << 15


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch works on one thread: several add the entries of a tensor in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def numbers(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a mask, held as bool or as ones and zeros of any dtype, as ones and zeros of `dtype`; as bool for bool."""
    if mask.dtype == dtype:
        return mask
    if dtype not in ONE or not mask.is_contiguous():
        return mask.to(dtype)
    whole, one = ONE[dtype]
    if mask.dtype == whole:
        return mask.mul(one).view(dtype)
    if mask.dtype is not torch.bool:
        return mask.to(dtype)
    # `to` goes through the entries of a bool one by one.
    return mask.view(torch.uint8).to(whole).mul_(one).view(dtype)


def compared(name: str, values: torch.Tensor, other: Any) -> torch.Tensor:
    """Return where a comparison (`eq`, `ge`, ...) holds, as ones and zeros of the values' dtype: a bool takes longer.

    other: a number, or a tensor of the same dtype.
    """
    return getattr(torch, name)(values, other, out=torch.empty(0, dtype=values.dtype))


def filled(values: torch.Tensor, mask: torch.Tensor, value: float) -> torch.Tensor:
    """Return a tensor with the entries of a mask set to a value; the mask is ones and zeros of its dtype."""
    whole = ONE[values.dtype][0]
    pattern = int(torch.tensor(value, dtype=values.dtype).view(whole))
    bits = mask.view(whole)
    chosen = torch.ne(bits, 0, out=torch.empty_like(bits)).neg_()
    left = values.view(whole).bitwise_and(chosen.bitwise_not())
    return left.bitwise_or_(chosen.bitwise_and_(pattern)).view(values.dtype)


def sum_of_first(tensors: torch.Tensor) -> torch.Tensor:
    """Return `tensors.sum(dim=0)`."""
    if len(tensors) == 2 and tensors.dtype in ONE:
        # A sum begins with 0, which makes -0 to 0.
        return tensors[0].add(tensors[1]).add_(0)
    # Five and more are added in another order where a processor's vector does not fit any more.
    with one_thread() if len(tensors) > 4 else contextlib.nullcontext():
        return tensors.sum(dim=0)


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
