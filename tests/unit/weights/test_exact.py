"""What takes less time than torch's own functions has their bits."""

import pytest
import torch
from moult.weights.exact import compared, filled, numbers, sum_of_first

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def bits(tensor):
    return tensor.view(torch.int32 if tensor.element_size() == 4 else torch.int16)


def drawn(dtype, spread, shape=(2, 30, 41)):
    values = (torch.randn(shape, generator=torch.Generator().manual_seed(4)) * spread).to(dtype)
    values[:, :4] = torch.tensor([0.0, -0.0, -1.0, float("nan")]).to(dtype)[None, :, None]
    return values


@pytest.mark.parametrize("spread", [1e-30, 1e-3, 1.0, 1e4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_functions_have_the_bits_of_torch(dtype, spread):
    values = drawn(dtype, spread)
    for number in (1, 2, 3, 6):
        tensors = torch.cat([values, values.flip(2), values * 0.3])[:number]
        ours, expected = sum_of_first(tensors), tensors.sum(dim=0)
        # All kinds of NaN are one.
        assert bits(ours.nan_to_num(7)).equal(bits(expected.nan_to_num(7)))
    mask = values > 0.1 * spread
    for held in (mask, *(mask.to(other) for other in (torch.int16, torch.int32, torch.int8, *DTYPES))):
        for other in (*DTYPES, torch.int8, torch.bool, torch.int64):
            assert numbers(held, other).equal(mask.to(other)) and numbers(held, other).dtype == other
    for value in (1, 0, -0.0, -2.5):
        expected = values.clone()
        expected[mask] = value
        assert bits(filled(values, mask.to(dtype), value)).equal(bits(expected))


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_comparisons_are_ones_and_zeros(dtype, name):
    values = drawn(dtype, 1.0)
    for other in (0, 0.5, values.flip(0), values[0], values[:, :1, :1].nan_to_num(0)):
        expected = getattr(torch, name)(values, other)
        made = compared(name, values, other)
        assert made.dtype == dtype and made.equal(expected.to(dtype))
