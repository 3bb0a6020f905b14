"""What a network loses with each channel: first-order Taylor importance.

P. Molchanov, A. Mallya, S. Tyree, I. Frosio, J. Kautz, "Importance Estimation for Neural Network Pruning", CVPR 2019: the
squared derivative of the loss by a gate on the channel, per sample, then averaged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from clio_cc.calibrate import Samples
from clio_cc.quantization.layers import Float
from clio_cc.slicing import Answer
from clio_cc.training.channels import ChannelGroup
from clio_cc.training.torch_graph import TorchGraph

_BATCH = 32


def taylor_importance(
    model: ir.Model, groups: Sequence[ChannelGroup], samples: Samples, answer: str, kind: Answer
) -> dict[str, Float]:
    """Return the importance of every channel, ``[channels]`` by name of its group.

    Args:
        model: The canonical float graph.
        groups: Of channels that go together.
        samples: To average over. Without labels, what the network answers counts as right.
        answer: Name of the tensor that the loss is taken of.
        kind: What the network answers.
    """
    graph = TorchGraph(model).requires_grad_(False)
    tensors = {tensor: group for group in groups for tensor in group.tensors}
    found: dict[str, Float] = {group.name: np.zeros(group.channels) for group in groups}
    ((name, x),) = samples.inputs.items()
    for first in range(0, len(x), _BATCH):
        batch = torch.from_numpy(np.ascontiguousarray(x[first : first + _BATCH]))
        labels = None if samples.labels is None else samples.labels[first : first + _BATCH]
        gates = _Gates(len(batch), tensors)
        _loss(graph.run({name: batch}, answer, gates), labels, kind).backward()
        for group in groups:
            slopes = [gate.grad for tensor, gate in gates.gates.items() if tensors[tensor] is group]
            total = torch.stack([slope for slope in slopes if slope is not None]).sum(0)
            found[group.name] += total.square().sum(0).double().numpy() / len(x)
    return found


def _loss(answers: Tensor, labels: npt.NDArray[np.int64] | None, kind: Answer) -> Tensor:
    """Summed over samples, so that each gate gets the derivative of its own sample's loss."""
    flat = answers.flatten(1)
    if kind == "values":
        return flat.square().sum() / 2
    right = flat.argmax(1) if labels is None else torch.from_numpy(labels)
    return functional.cross_entropy(flat, right, reduction="sum")


class _Gates:
    """Factors of 1 on the channels of some tensors, one per sample."""

    def __init__(self, samples: int, tensors: dict[str, ChannelGroup]) -> None:
        self.gates = {
            name: torch.ones(samples, group.channels, requires_grad=True) for name, group in tensors.items()
        }

    def weights(self, node: str, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        del node
        return weight, bias

    def values(self, tensor: str, x: Tensor) -> Tensor:
        gate = self.gates.get(tensor)
        return x if gate is None else x * gate.view(*gate.shape, *[1] * (x.ndim - 2))
