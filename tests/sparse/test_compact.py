import pytest
import torch

from frontrunner.sparse.compact import expand, pack, unpack

SHAPES = [(1, 1), (1, 8), (3, 5), (7, 9), (16, 16), (1, 1001)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_matrix_comes_back_from_its_bitmap_and_values(shape, share, dtype) -> None:
    stream = torch.Generator().manual_seed(0)
    mask = torch.rand(shape, generator=stream) < share
    weight = (torch.randn(shape, generator=stream) * mask).to(dtype)
    bits = pack(mask)
    assert bits.dtype == torch.uint8
    assert len(bits) == -(-mask.numel() // 8)
    assert torch.equal(unpack(bits, shape), mask)
    back = expand(weight[mask], unpack(bits, shape))
    assert back.dtype == dtype
    assert torch.equal(back, weight)


def test_the_first_entry_is_the_highest_bit() -> None:
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[0, 0] = mask[1, 4] = True
    assert pack(mask).tolist() == [0b1000_0000, 0b0100_0000]


def test_a_zero_on_the_support_stays_on_it() -> None:
    mask = torch.tensor([[True, False, True]])
    dense = expand(torch.tensor([0.0, 2.0]), mask)
    assert dense.tolist() == [[0, 0, 2]]
    assert unpack(pack(mask), (1, 3)).tolist() == mask.tolist()


def test_a_view_that_is_not_contiguous_is_packed_as_it_looks() -> None:
    mask = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    assert torch.equal(unpack(pack(mask.mT), (4, 6)), mask.mT)
