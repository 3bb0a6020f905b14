"""Section 5: RAM and flash against the board's, and what lies where in the arena at which time."""

from __future__ import annotations

from collections.abc import Iterator

from clio_cc.arena import Arena, Buffer, plan_arena
from clio_cc.report.axes import Linear, badge, box, plot, text, value_axis
from clio_cc.report.facts import Facts
from clio_cc.report.markup import (
    Content,
    Figure,
    Markup,
    el,
    folded,
    paragraph,
    percent,
    plain,
    several,
    short,
    size,
    table,
)

Part = tuple[str, str, int]
"""Kind, name, bytes."""


def section(facts: Facts) -> list[Content]:
    """Both memories, then the arena."""
    arena = plan_arena(facts.program)
    target = facts.target
    found: list[Content] = [
        _budget("RAM", _ram(facts), int(target.ram_bytes.value), target.ram_bytes.source),
        _budget("Flash", _flash(facts), int(target.flash_bytes.value), target.flash_bytes.source),
    ]
    if target.runs_from_ram:
        found.append(
            paragraph(f"On {target.title} code and tables are copied into RAM, so that they count twice.")
        )
    if facts.manifest["device"]["stack_bytes"] is None:
        found.append(paragraph("Stack and code are not known: the board's compiler is not installed here."))
    return [
        *found,
        el("h3", "The arena over time"),
        paragraph(
            f"The device has no malloc: every tensor has a fixed place in one arena of {size(arena.bytes)}. Bytes are "
            "shared by tensors that do not live at the same time, and by an operator's input and output where what has been "
            "read makes room for what is written. Each rectangle is one piece of memory: from left to right the "
            "operators that need it, from bottom to top its bytes. Dotted pieces are scratch memory of one operator; what "
            f"is sent lies in the numbered ones. Most is needed at once, {size(arena.live_bytes)}, at operator ",
            short(arena.worst),
            ".",
        ),
        _map(facts, arena),
        _places(facts, arena),
    ]  # fmt: skip


def used(facts: Facts) -> tuple[int, int]:
    """Bytes of RAM and flash, as far as known."""
    return sum(value for *_, value in _ram(facts)), sum(value for *_, value in _flash(facts))


def _ram(facts: Facts) -> list[Part]:
    device = facts.manifest["device"]
    parts = [("arena", "arena", device["arena_bytes"]), ("stack", "stack", device["stack_bytes"] or 0)]
    return parts + (_flash(facts) if facts.target.runs_from_ram else [])


def _flash(facts: Facts) -> list[Part]:
    device = facts.manifest["device"]
    tables = device["table_bytes"]
    code = (device["flash_bytes"] or tables) - tables
    return [("code", "code", code), ("tables", "tables (weights)", tables)]


def _budget(what: str, parts: list[Part], board: int, source: str) -> Markup:
    used = sum(size_ for _, _, size_ in parts)
    pieces = [
        el(
            "span",
            class_=f"part {kind}",
            style=f"width:{plain(100 * value / board)}%",
            title=f"{name}: {size(value)}",
        )
        for kind, name, value in parts
    ]
    rows: list[list[Content]] = [
        [el("span", el("span", class_=f"swatch {kind}"), f" {name}"), value, Figure(percent(value / board))]
        for kind, name, value in parts
    ]
    rows.append(["used", used, Figure(percent(used / board))])
    rows.append(["on the board", board, Figure(percent(1.0))])
    words = f"{what}: {size(used)} of {size(board)}, {percent(used / board, 1)}"
    return el(
        "div", el("h3", words), el("div", pieces, class_="budget", role="img", aria_label=words),
        table(what, ("", "bytes", "of the board's"), rows), el("p", f"The board's figure: {source}.", class_="sources"),
    )  # fmt: skip


def _map(facts: Facts, arena: Arena) -> Markup:
    count = len(facts.program.operators)
    x, y = Linear(-1, max(count, 1)), Linear(0, max(arena.bytes, 1))
    ticks = [(arena.bytes * i / 4, size(arena.bytes * i // 4)) for i in range(5)]
    return plot(
        "arena",
        "Arena: bytes over operators",
        f"{several(len(arena.buffers), 'piece')} of memory over {several(count, 'operator')}; the table below lists them.",
        value_axis(y, ticks, "offset in the arena"),
        [_piece(facts, arena, each, x, y) for each in arena.buffers],
        text(0, 0, "input", "tick start", dy=18),
        text(100, 0, f"operator {count}", "tick end", dy=18),
    )


def _piece(facts: Facts, arena: Arena, buffer: Buffer, x: Linear, y: Linear) -> Iterator[Markup]:
    name, offset = _place(arena, buffer)
    left, right = x.at(buffer.first), x.at(buffer.last + 1)
    bottom, top = y.at(offset), y.at(offset + buffer.bytes)
    scratch = name.endswith("#scratch")
    sent = next(
        (n for tap, n in _taps(facts).items() if any(tap == each for each, _ in buffer.tensors)), None
    )
    kind = "scratch" if scratch else "input" if buffer.first < 0 else "tensor"
    label = (
        text(50, 50, f"{buffer.bytes:,}", "inside", dy=4) if right - left > 14 and top - bottom > 6 else None
    )
    held = ", ".join(each for each, _ in buffer.tensors)
    words = f"{held}: {size(buffer.bytes)} at {offset:,}, operators {max(buffer.first, 0) + 1} to {buffer.last + 1}"
    yield box(left, bottom, right, top, f"buffer {kind}", label, title=words)
    if sent is not None:
        yield badge(right, top, sent, dx=-9, dy=9)


def _place(arena: Arena, buffer: Buffer) -> tuple[str, int]:
    """The first tensor in a buffer, and where the buffer begins."""
    name, within = buffer.tensors[0]
    return name, arena.offsets[name] - within


def _taps(facts: Facts) -> dict[str, int]:
    return {tap.tensor: facts.numbers[tap.partition] for tap in facts.program.taps}


def _places(facts: Facts, arena: Arena) -> Markup:
    operators = [op.name for op in facts.program.operators]
    rows: list[list[Content]] = []
    for buffer in arena.buffers:
        name, offset = _place(arena, buffer)
        last = min(buffer.last, len(operators) - 1)
        rows.append(
            [
                [short(name), "" if len(buffer.tensors) == 1 else f" and {len(buffer.tensors) - 1} more"],
                offset,
                buffer.bytes,
                "before the first" if buffer.first < 0 else short(operators[buffer.first], 22),
                short(operators[last], 22) if operators else "",
            ]
        )
    caption = f"All {several(len(rows), 'piece')} of the arena"
    return folded(
        caption, table(caption, ("tensor", "offset", "bytes", "from operator", "to operator"), rows)
    )
