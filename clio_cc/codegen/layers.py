"""``test/clio_layers.c``: which layer each operator counts for, so that the profiling firmware prints layers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np

from clio_cc.codegen.emit import Emitter


def layers_source(owners: Sequence[str], layers: Sequence[str], front_matter: str) -> str:
    """Return the text.

    Args:
        owners: For every operator of the Program, in order, the layer that it counts for.
        layers: Those of the table, in its order.
        front_matter: Tool, command and model digest, for the first comment.
    """
    out = Emitter()
    out.comment(f"{front_matter}\nLayers of the original network, and the one that each operator counts for.")
    out.line("#include <stdint.h>")
    out.line()
    out.line("extern const uint32_t clio_layer_count;")
    out.line("extern const char *const clio_layers[];")
    out.line("extern const uint32_t clio_layer_of_op[];")
    out.line()
    out.line(f"const uint32_t clio_layer_count = {len(layers)};")
    with out.block("const char *const clio_layers[] = {", "};"):
        for layer in layers:
            out.line(f"{_literal(_cell(layer))},")
        if not layers:
            out.line('"",')
    index = {layer: number for number, layer in enumerate(layers)}
    indices = np.array([index[owner] for owner in owners] or [0], np.uint32)
    out.array(f"const uint32_t clio_layer_of_op[{len(indices)}]", indices)
    return out.text()


def _cell(text: str) -> str:
    """A CSV cell, quoted where it must be."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([text])
    return line.getvalue()


def _literal(text: str) -> str:
    """A C string; three octal digits cannot run into what follows, and no two question marks make a trigraph."""
    plain = (byte for byte in text.encode())
    return (
        '"' + "".join(chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in plain) + '"'
    )
