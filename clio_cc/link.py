"""A radio between device and cloud: how long a transfer takes at a bandwidth, what it costs, and how fast it can be.

Bandwidth is what the application sees in the long run, in bits per second. Two kinds of radio:

- A *stream* carries bits at that rate, as CLIO (MobiCom'20) counts: no packets, no waiting.
- *Connection events* (BLE): the radio sleeps between events that are an interval apart, so a transfer first waits for
  the next one, at worst a whole interval, and then takes as many events as its bytes need; the last one ends with its
  last packet. Time of a data packet and its empty acknowledgement, and packets per event, are those of the Bluetooth
  Core Specification, volume 6, part B, with what the controller keeps free at either end of an event fitted to two
  figures by Nordic (see `EVENT_OVERHEAD_US`). A bandwidth below the ceiling means that events carry fewer packets than
  they could, because they close early or a peer is busy; packets that are sent again count by `loss` alone.

The reply is a few bytes and does not count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from clio_cc.targets.facts import Figure

NS_PER_S = 10**9
INTER_FRAME_US = 150
"""Silence before each packet (T_IFS)."""
EVENT_OVERHEAD_US = 1300
"""Of every interval no packet is sent in 1.3 ms and 1.5 %: with both, the model gives Nordic's 1327.5 kbit/s at 50 ms and
1376.2 kbit/s at 400 ms (2M, 251 bytes)."""
EVENT_OVERHEAD_PERMILLE = 15
ATT_AND_L2CAP_BYTES = 7
"""Headers of a notification inside a link-layer payload: 4 bytes L2CAP, 3 bytes ATT."""
PAYLOAD_BYTES = (27, 251)
INTERVAL_US = (7500, 4_000_000)
INTERVAL_STEP_US = 1250
MOST_LOSS = 0.99


def exact(value: float) -> Fraction:
    """The number as it is written, so that 0.1 is a tenth."""
    return Fraction(str(float(value)))


@dataclass(frozen=True)
class Phy:
    """How long a BLE packet is in the air: `fixed_us` and `us_per_byte` for header (2), payload and CRC (3)."""

    fixed_us: int
    us_per_byte: int

    def packet_us(self, payload: int) -> int:
        """Time of one packet."""
        return self.fixed_us + (2 + payload + 3) * self.us_per_byte


PHYS = {
    "2M": Phy(6 * 4, 4),  # preamble 2 bytes, access address 4
    "1M": Phy(5 * 8, 8),  # preamble 1 byte
    "coded-500k": Phy(376 + 6, 16),  # preamble 80, address 256, indicator 16, terms 24 and 3 bits
    "coded-125k": Phy(376 + 24, 64),
}


@dataclass(frozen=True)
class Stream:
    """Bits at a constant rate."""

    def time_ns(self, size: int, bps: int) -> Fraction:
        """Time for `size` bytes at a bandwidth."""
        return Fraction(size * 8 * NS_PER_S, bps)

    def from_bps(self, size: int, most_ns: Fraction | int) -> int | None:
        """Lowest whole bandwidth at which `size` bytes, at least 1, take at most `most_ns`; None if there is none."""
        return -int(-size * 8 * NS_PER_S // most_ns) if most_ns > 0 else None


@dataclass(frozen=True)
class ConnectionEvents:
    """A BLE connection on which the device sends notifications.

    Attributes:
        phy: A key of `PHYS`.
        payload: Largest payload of a link-layer packet, 27 (Bluetooth 4.0) to 251 bytes.
        interval_us: Between connection events, 7.5 ms to 4 s in steps of 1.25 ms.
        packets: Most data packets per event that both stacks allow; None: as many as fit.
        acknowledged: The application waits for an acknowledgement, which comes in the next event, so that only every
            second one carries data (FLEET, MobiCom'23, section 1).
        loss: Share of packets that must be sent again.
        source: Where all this comes from.
    """

    phy: str
    payload: int
    interval_us: int
    packets: int | None
    acknowledged: bool
    loss: float
    source: str

    def __post_init__(self) -> None:
        low, high = INTERVAL_US
        checks = (
            (self.phy in PHYS, f"phy must be {', '.join(PHYS)}, got '{self.phy}'"),
            (
                PAYLOAD_BYTES[0] <= self.payload <= PAYLOAD_BYTES[1],
                f"payload must be 27 to 251 bytes, got {self.payload}",
            ),
            (
                low <= self.interval_us <= high and self.interval_us % INTERVAL_STEP_US == 0,
                f"interval_us must be 7500 to 4000000 in steps of 1250, got {self.interval_us}",
            ),
            (self.packets is None or self.packets >= 1, f"packets must be at least 1, got {self.packets}"),
            (0 <= self.loss <= MOST_LOSS, f"loss must be 0 to {MOST_LOSS:g}, got {self.loss:g}"),
        )
        mistakes = [words for holds, words in checks if not holds]
        if not mistakes and self.fitting < 1:
            mistakes.append(
                f"interval_us must leave room for a packet and its acknowledgement, {self.pair_us} us"
            )
        if mistakes:
            raise ValueError(*mistakes)

    @cached_property
    def pair_us(self) -> int:
        """A full data packet and its empty acknowledgement, each with its silence."""
        phy = PHYS[self.phy]
        return phy.packet_us(self.payload) + phy.packet_us(0) + 2 * INTER_FRAME_US

    @property
    def packet_bytes(self) -> int:
        """Bytes of the application in a packet."""
        return self.payload - ATT_AND_L2CAP_BYTES

    @cached_property
    def fitting(self) -> int:
        """Data packets that an event has room for."""
        free = self.interval_us * (1000 - EVENT_OVERHEAD_PERMILLE) - EVENT_OVERHEAD_US * 1000
        return max(free, 0) // (self.pair_us * 1000)

    @cached_property
    def packets_per_event(self) -> int:
        """Data packets in an event."""
        return self.fitting if self.packets is None else min(self.fitting, self.packets)

    @cached_property
    def cycle_us(self) -> int:
        """From one event that carries data to the next."""
        return self.interval_us * (2 if self.acknowledged else 1)

    @property
    def ceiling_bps(self) -> int:
        """Highest bandwidth, rounded up so that a full event's bytes take one event there."""
        bits = self.packets_per_event * self.packet_bytes * 8 * (1 - exact(self.loss))
        return math.ceil(bits * 10**6 / self.cycle_us)

    @cached_property
    def _arriving(self) -> Fraction:
        """Bytes of the application that a packet brings over on average, packets sent again counted."""
        return self.packet_bytes * (1 - exact(self.loss))

    def needed(self, size: int, bps: int) -> tuple[int, int]:
        """Events that carry `size` bytes, at least 1, at a bandwidth, and packets in the last of them."""
        capacity = bps * self.cycle_us  # of an event; all in 8 millionths of a byte
        events = -(-size * 8 * 10**6 // capacity)
        return events, self._packets(size * 8 * 10**6 - (events - 1) * capacity, 8 * 10**6)

    def most_packets(self, size: int, events: int) -> int:
        """Packets in the last of so many events where they just carry `size` bytes: no bandwidth needs more."""
        return self._packets(size, events)

    def _packets(self, amount: int, per_byte: int) -> int:
        arriving, parts = self._arriving.as_integer_ratio()
        return min(-(-amount * parts // (arriving * per_byte)), self.packets_per_event)

    def end_ns(self, events: int, packets: int) -> int:
        """Longest time until the end of so many packets in the last of so many events."""
        return (self.interval_us + (events - 1) * self.cycle_us + packets * self.pair_us) * 1000

    def most_in(self, most_ns: Fraction | int) -> tuple[int, int] | None:
        """Events, and packets in the last of them, that end within a time; None if not even one packet does."""
        free_us = int(most_ns // 1000) - self.interval_us
        if free_us < self.pair_us:
            return None
        before = (free_us - self.pair_us) // self.cycle_us
        return before + 1, min((free_us - before * self.cycle_us) // self.pair_us, self.packets_per_event)

    def end_from_bps(self, size: int, events: int, packets: int) -> int | None:
        """Lowest bandwidth at which `size` bytes, at least 1, end no later than so; None if there is none."""
        lowest = -(-size * 8 * 10**6 // (events * self.cycle_us))
        if packets >= self.most_packets(size, events):
            return lowest
        if events == 1:
            return None
        arriving, parts = self._arriving.as_integer_ratio()
        before = size * parts - packets * arriving  # what the events before the last must carry
        return max(lowest, -(-before * 8 * 10**6 // ((events - 1) * self.cycle_us * parts)))

    def time_ns(self, size: int, bps: int) -> int:
        """Longest time for `size` bytes at a bandwidth."""
        return self.end_ns(*self.needed(size, bps)) if size else 0

    def from_bps(self, size: int, most_ns: Fraction | int) -> int | None:
        """Lowest whole bandwidth at which `size` bytes, at least 1, take at most `most_ns`; None if there is none."""
        most = self.most_in(most_ns)
        return None if most is None else self.end_from_bps(size, *most)


@dataclass(frozen=True)
class Link:
    """A radio; figures that are not known are None.

    Attributes:
        name: As typed after ``--link``.
        title: For people.
        bandwidth_bps: Of a stream, the most that the application sees.
        connection: Of a radio with connection events.
        sending_mw: While a transfer lasts.
        energy_nj_per_byte: Of the application's bytes, each sent once.
        idle_uw: Of keeping the link, counted while a transfer lasts.
        note: Empty, or what to know before trusting the figures.
    """

    name: str
    title: str
    bandwidth_bps: Figure | None = None
    connection: ConnectionEvents | None = None
    sending_mw: Figure | None = None
    energy_nj_per_byte: Figure | None = None
    idle_uw: Figure | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if (self.bandwidth_bps is None) == (self.connection is None):
            raise ValueError("give either bandwidth_bps or connection")
        if self.bandwidth_bps is not None and not float(self.bandwidth_bps.value).is_integer():
            raise ValueError("bandwidth_bps must be whole")

    @property
    def transfer(self) -> Stream | ConnectionEvents:
        """How bytes travel."""
        return Stream() if self.connection is None else self.connection

    @property
    def ceiling_bps(self) -> int:
        """The highest bandwidth that this radio reaches."""
        if self.connection is not None:
            return self.connection.ceiling_bps
        assert self.bandwidth_bps is not None
        return int(self.bandwidth_bps.value)

    @property
    def knows_energy(self) -> bool:
        """Whether a transfer's energy is known; the idle power alone does not tell."""
        return self.sending_mw is not None or self.energy_nj_per_byte is not None

    @property
    def power_mw(self) -> Fraction:
        """What is drawn for as long as a transfer lasts, apart from the energy per byte."""
        sending = exact(self.sending_mw.value) if self.sending_mw is not None else Fraction(0)
        idle = exact(self.idle_uw.value) / 1000 if self.idle_uw is not None else Fraction(0)
        return sending + idle

    @property
    def pj_per_byte(self) -> Fraction:
        """What each byte costs, packets sent again included."""
        if self.energy_nj_per_byte is None:
            return Fraction(0)
        loss = exact(self.connection.loss) if self.connection is not None else Fraction(0)
        return exact(self.energy_nj_per_byte.value) * 1000 / (1 - loss)

    def source(self) -> str:
        """Where the figures come from, in one line."""
        found = [
            f"{name} {figure.value:.10g}: {figure.source}"
            for name in ("bandwidth_bps", "sending_mw", "energy_nj_per_byte", "idle_uw")
            if (figure := getattr(self, name)) is not None
        ]
        if self.connection is not None:
            found.insert(0, f"connection: {self.connection.source}")
        return "; ".join([self.title, *found, *([self.note] if self.note else [])])
