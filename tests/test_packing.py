"""Units of few bits: what goes into bytes comes out again, and lies where the format says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clio_cc.packing import UNIT_BITS, pack, pack_units, packed_bytes, unpack, value_range
from clio_cc.qformat import Int8Array


@st.composite
def units(draw: st.DrawFn) -> tuple[Int8Array, int]:
    """Values ``[units, values]`` of so many bits, the ends of their range among them."""
    bits = draw(st.sampled_from(UNIT_BITS))
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 40))
    low, high = value_range(bits)
    values = draw(
        st.lists(st.integers(low, high), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    )
    return np.array(values, np.int8).reshape(shape), bits


@given(units())
def test_what_is_packed_comes_out_again(given_units: tuple[Int8Array, int]) -> None:
    values, bits = given_units
    packed = pack(values, bits)
    assert packed.dtype == "uint8" and packed.shape == (len(values), packed_bytes(values.shape[1], bits))
    np.testing.assert_array_equal(unpack(packed, bits, values.shape[1]), values)
    for row, unit in zip(packed, values, strict=True):  # as one long number, the first value lowest
        number = sum((int(value) % 2**bits) << (i * bits) for i, value in enumerate(unit))
        assert row.tobytes() == number.to_bytes(len(row), "little")


def test_bytes_by_hand() -> None:
    values = np.array([1, -1, 7, -8, 2], np.int8)
    assert pack(values, 4).tolist() == [0xF1, 0x87, 0x02]
    assert pack(values, 6).tolist() == [0b11_000001, 0b0111_1111, 0b111000_00, 0b00_000010]
    assert pack(values, 8).tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("values", "bits", "size"),
    [(1, 4, 1), (1, 6, 1), (2, 6, 2), (3, 6, 3), (4, 6, 3), (9, 4, 5), (144, 4, 72)],
)
def test_size(values: int, bits: int, size: int) -> None:
    assert packed_bytes(values, bits) == size


def test_units_of_8_bits_travel_as_they_are() -> None:
    values = np.arange(-12, 12, dtype=np.int8).reshape(1, 2, 3, 4)
    assert pack_units(values, 8) is values
    assert pack_units(values // 2, 4).shape == (1, 2, 6)
    assert pack_units(values[:, :, 0, 0] // 2, 6).shape == (1, 2, 1)


@pytest.mark.parametrize("value", [-9, 8])
def test_what_does_not_fit_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match=r"^a value of -?\d\.\.-?\d has more than 4 bits$"):
        pack(np.array([0, value], np.int8), 4)
