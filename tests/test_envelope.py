"""The cheapest of several choices at each bandwidth, against looking at every bandwidth."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import example, given, settings
from hypothesis import strategies as st

from clio_cc.envelope import _cheapest, _Cost
from clio_cc.link import ConnectionEvents, Stream

LOSSY = ConnectionEvents("coded-125k", 27, 50_000, 8, False, 0.3, "test")
TRANSFERS = st.sampled_from(
    [
        Stream(),
        ConnectionEvents("2M", 27, 7500, None, False, 0.0, "test"),
        ConnectionEvents("2M", 100, 7500, 1, True, 0.0, "test"),
        LOSSY,
    ]
)
COSTS = st.lists(st.tuples(st.integers(0, 200_000_000), st.integers(0, 200)), min_size=1, max_size=5)


@settings(max_examples=500)
@given(
    TRANSFERS,
    st.sampled_from([1, Fraction(222, 1000), 0]),
    COSTS,
    st.integers(50, 3000),
    st.integers(0, 30_000),
    st.lists(st.integers(0, 1000), max_size=20),
)
# Of 20 bytes an event carries all in two packets, though five would still be cheaper than sending nothing.
@example(LOSSY, 1, [(67_687_000, 0), (0, 20), (1_000_000, 20)], 3000, 1000, [500])
def test_cheapest_against_brute_force(
    transfer: Stream | ConnectionEvents,
    weight: Fraction | int,
    pairs: list[tuple[int, int]],
    low: int,
    length: int,
    shares: list[int],
) -> None:
    costs = [_Cost(fixed, weight, size) for fixed, size in pairs]
    found = _cheapest(costs, low, low + length, transfer)
    starts = [start for start, _ in found]
    assert starts[0] == low
    assert starts == sorted(set(starts))
    last = max(low, low + length - 1)
    for bps in {
        low,
        last,
        *starts,
        *(max(low, s - 1) for s in starts),
        *(low + length * s // 1001 for s in shares),
    }:
        values = [cost.fixed + cost.weight * transfer.time_ns(cost.bytes, bps) for cost in costs]
        chosen = [index for start, index in found if start <= bps][-1]
        assert values[chosen] == min(values)
