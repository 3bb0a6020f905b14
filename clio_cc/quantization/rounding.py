"""Rounding of weights that knows the inputs: each weight's rounding error is made up for by the weights not
yet rounded.

This is the optimal-brain-quantization update in its Cholesky form (Frantar et al., "GPTQ", arXiv
2210.17323, section 3): it minimizes the output's error on calibration inputs, not the weights' own.
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
    diagonal = np.einsum("gii->gi", gram)
    damping = _DAMPING * diagonal.mean(axis=1) + 1e-12
    damped = gram + damping[:, None, None] * np.eye(weight.shape[2])
    order = np.argsort(
        -diagonal.mean(axis=0), kind="stable"
    )  # strong inputs first: the weak ones can make up for them
    factor = _factor(damped[:, order][:, :, order])
    error, steps = np.zeros_like(weight), np.empty_like(weight)
    for k, original in enumerate(order):
        carried = (error[:, :, :k] @ factor[:, k, :k, None])[:, :, 0] / factor[:, k, k, None]
        column = weight[:, :, original]
        rounded = np.clip(np.floor((column + carried) / scale + 0.5), INT8_MIN, INT8_MAX)
        error[:, :, k] = column - rounded * scale
        steps[:, :, original] = rounded
    return steps


def _factor(gram: Float) -> Float:
    """Return lower triangular F with ``F.T @ F == gram``: from the Cholesky factor of the matrix read backwards.

    With errors e the loss is ``|F e|**2``, whose k-th term holds e_0 … e_k only: so one pass over the weights
    will do.
    """
    lower: Float = np.linalg.cholesky(gram[:, ::-1, ::-1])
    return np.ascontiguousarray(lower[:, ::-1, ::-1].transpose(0, 2, 1))
