"""Train the example network on scikit-learn's digits and write the files beside this script.

    pip install -e ".[example,train]"
    python examples/digits/train.py

Writes ``digits.onnx`` (opset 17, NCHW, BatchNorm kept, dynamic batch), ``digits-calibration.npz`` (`x`, `y`:
images that the network was trained on) and ``digits-test.npz`` (`x`, `y`: images it never saw). Images are
float32 of shape (n, 1, 8, 8) in 0..1. Everything is seeded: on one machine two runs write the same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

SEED = 20
TEST_IMAGES = 500
CALIBRATION_IMAGES = 512
EPOCHS = 60
BATCH = 64
Images = NDArray[np.float32]
Labels = NDArray[np.int64]


class ConvNorm(nn.Sequential):
    """Convolution without bias, BatchNorm, and ReLU if `active`."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True
    ):
        layers: list[tuple[str, nn.Module]] = [
            ("conv", nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)),
            ("norm", nn.BatchNorm2d(outputs)),
        ]
        if active:
            layers.append(("relu", nn.ReLU()))
        super().__init__()
        for name, layer in layers:
            self.add_module(name, layer)


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = ConvNorm(channels, channels, 3)
        self.second = ConvNorm(channels, channels, 3, active=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, h, w) to the same shape."""
        result: Tensor = self.relu(self.second(self.first(x)) + x)
        return result


class Digits(nn.Module):
    """(n, 1, 8, 8) → (n, 10) logits.

    Stem, residual block, depthwise-separable step down to 4x4, residual block, mean, Gemm.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(1, 16, 3)
        self.block1 = Residual(16)
        self.depthwise = ConvNorm(16, 16, 3, stride=2, groups=16)
        self.pointwise = ConvNorm(16, 32, 1)
        self.block2 = Residual(32)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        x = self.block1(self.stem(x))
        x = self.block2(self.pointwise(self.depthwise(x)))
        logits: Tensor = self.classifier(self.flatten(self.pool(x)))
        return logits


def load_data() -> tuple[Images, Labels, Images, Labels]:
    """Return training images and labels, then test images and labels, split by a fixed permutation."""
    digits = load_digits()
    x = (digits.images / 16.0).astype(np.float32)[:, None]
    y = digits.target.astype(np.int64)
    order = np.random.default_rng(SEED).permutation(len(x))
    test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
    return x[train], y[train], x[test], y[test]


def shift_at_random(x: Tensor, generator: torch.Generator) -> Tensor:
    """Move every image of (n, 1, 8, 8) by up to one pixel each way, filling with zeros."""
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    steps = torch.randint(0, 3, (len(x), 2), generator=generator).tolist()
    return torch.stack(
        [image[:, dy : dy + 8, dx : dx + 8] for image, (dy, dx) in zip(padded, steps, strict=True)]
    )


def train(x: Images, y: Labels) -> Digits:
    """Train on all of `x`, `y` and return the network in evaluation mode."""
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # sums in one order, whatever the machine
    generator = torch.Generator().manual_seed(SEED)
    network = Digits()
    steps = EPOCHS * ((len(x) + BATCH - 1) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x), generator=generator).split(BATCH):
            logits = network(shift_at_random(images[batch], generator))
            loss = nn.functional.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    return network


def accuracy(network: Digits, x: Images, y: Labels) -> float:
    """Return the share of images that are classified right."""
    with torch.no_grad():
        guesses = network(torch.from_numpy(x)).argmax(1).numpy()
    return float((guesses == y).mean())


def export(network: Digits, path: Path) -> None:
    """Write `network` as ONNX: BatchNorm nodes of their own, nothing that differs between two runs."""
    torch.onnx.export(
        network,
        (torch.zeros(1, 1, 8, 8),),
        path,
        opset_version=17,
        dynamo=False,  # the exporter that needs no further package
        training=torch.onnx.TrainingMode.PRESERVE,  # EVAL would fold BatchNorm into the convolutions
        do_constant_folding=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )
    model = onnx.load(path)
    model.graph.name = "digits"
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def main() -> None:
    """Train, report and write the three files."""
    parser = argparse.ArgumentParser(description="Train the digits example.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    x, y, x_test, y_test = load_data()
    network = train(x, y)
    print(f"parameters      {sum(p.numel() for p in network.parameters())}")
    print(f"train accuracy  {accuracy(network, x, y):.2%} of {len(x)}")
    print(f"test accuracy   {accuracy(network, x_test, y_test):.2%} of {len(x_test)}")
    export(network, out / "digits.onnx")
    calibration = slice(0, CALIBRATION_IMAGES)
    np.savez_compressed(out / "digits-calibration.npz", x=x[calibration], y=y[calibration])
    np.savez_compressed(out / "digits-test.npz", x=x_test, y=y_test)


if __name__ == "__main__":
    main()
