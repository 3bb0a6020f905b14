"""Rounding of weights that knows the inputs: each weight's rounding error is made up for by the weights not yet rounded.

This is the optimal-brain-quantization update in its Cholesky form (Frantar et al., "GPTQ", arXiv 2210.17323, section 3): it minimizes
the output's error on calibration inputs, not the weights' own.
"""

from __future__ import annotations

import numpy as np

from clio_cc.qformat import INT8_MAX, INT8_MIN
from clio_cc.quantization.layers import Float

_DAMPING = 0.01  # share of the mean diagonal: keeps directions that calibration never saw from running away


def round_weights(weight: Float, scale: Float, gram: Float) -> Float:
    """Return integer weights (float64, within int8).

    Args:
        weight: ``[groups, cout, inputs]``.
        scale: ``[groups, cout]``.
        gram: ``[groups, inputs, inputs]``: sums of products of inputs over calibration.
    """
    count = weight.shape[2]
    diagonal = np.einsum("gii->gi", gram)
    damping = _DAMPING * diagonal.mean(axis=1) + 1e-12
    damped = gram + damping[:, None, None] * np.eye(count)
    order = np.argsort(-diagonal.mean(axis=0), kind="stable")  # strong inputs first: the weak ones can make up for them
    inverse = np.linalg.inv(damped[:, order][:, :, order])
    upper = np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2).transpose(0, 2, 1)
    rest, steps = weight[:, :, order].copy(), np.empty_like(weight)
    for k in range(count):
        column = rest[:, :, k]
        steps[:, :, order[k]] = np.clip(np.floor(column / scale + 0.5), INT8_MIN, INT8_MAX)
        error = (column - steps[:, :, order[k]] * scale) / upper[:, None, k, k]
        rest[:, :, k + 1 :] -= error[:, :, None] * upper[:, None, k, k + 1 :]
    return steps
