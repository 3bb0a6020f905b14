"""From float layers to integer operators: float semantics, equalization, formats, rounding, emission."""
