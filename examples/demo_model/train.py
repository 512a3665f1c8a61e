"""Train the demo's digit classifier and write the three files of `graphopt/demo/`.

Usage:
    pip install 'graphopt[demo]'
    python examples/demo_model/train.py [--out graphopt/demo] [--epochs 24] [--seed 0]

The data are the 1,797 handwritten digits that scikit-learn ships (8x8 pixels, 0 to 16), upsampled
to 32x32. A fifth of them is held out, stratified by class, and never seen in training; the
calibration samples come from the training part.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional

SIDE = 32  # pixels of an upsampled image
CHANNELS = 64  # a multiple of 16, so that integer kernels run full vectors
BLOCKS = 4
CALIBRATION_SAMPLES = 64
BATCH = 32


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalization around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (batch, channels, height, width) to the same shape."""
        inner = functional.relu(self.first_norm(self.first(features)))
        return functional.relu(features + self.second_norm(self.second(inner)))


class DigitNet(nn.Module):
    """A stem that halves the image, residual blocks, global average pooling, one linear layer."""

    def __init__(self, channels: int = CHANNELS, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(channels)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.classifier = nn.Linear(channels, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map images (batch, 1, 32, 32) in [0, 1] to logits (batch, 10)."""
        features = self.blocks(functional.relu(self.stem_norm(self.stem(image))))
        pooled = functional.adaptive_avg_pool2d(features, 1)
        return self.classifier(torch.flatten(pooled, 1))


@dataclass(frozen=True)
class Split:
    """Images float32 (n, 1, 32, 32) in [0, 1] with labels int64 (n,)."""

    images: torch.Tensor
    labels: torch.Tensor


def load_splits(seed: int) -> tuple[Split, Split]:
    """Return the training and the held-out part of the digits."""
    digits = load_digits()
    small = torch.from_numpy(digits.images.astype(np.float32) / 16).unsqueeze(1)
    images = functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    # Steps of 1/256 lose nothing that the eye or the network sees, and compress well.
    images = torch.round(images * 256) / 256
    labels = torch.from_numpy(digits.target.astype(np.int64))
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=digits.target, random_state=seed
    )
    return Split(images[train], labels[train]), Split(images[held_out], labels[held_out])


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the batch moved by up to two pixels in each direction, the border filled with 0."""
    down, right = torch.randint(0, 5, (2,), generator=generator).tolist()
    padded = functional.pad(images, (2, 2, 2, 2))
    return padded[:, :, down : down + SIDE, right : right + SIDE]


def train(split: Split, epochs: int, seed: int) -> DigitNet:
    """Train with AdamW under a one-cycle schedule; return the model in inference mode."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = DigitNet()
    steps = -(-len(split.labels) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * steps)
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(split.labels), generator=generator).split(BATCH):
            logits = model(shifted(split.images[rows], generator))
            loss = functional.cross_entropy(logits, split.labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        print(f"epoch {epoch + 1}/{epochs}: loss {total / len(split.labels):.4f}", flush=True)
    return model.eval()


def accuracy(model: DigitNet, split: Split) -> float:
    """Return the fraction of images whose largest logit is their label."""
    with torch.no_grad():
        guesses = torch.cat([model(part).argmax(1) for part in split.images.split(64)])
    return float((guesses == split.labels).float().mean())


def export_model(model: DigitNet, example: torch.Tensor, path: Path) -> None:
    """Write `model` for any batch size, without the exporter's notes on where it was made."""
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert program is not None
    # Stack traces hold the paths of the machine that exported.
    for part in (*program.model.graph, *program.model.graph.inputs, *program.model.graph.outputs):
        part.metadata_props.clear()
        for value in getattr(part, "outputs", ()):
            value.metadata_props.clear()
    program.model.graph.metadata_props.clear()
    program.model.metadata_props.clear()
    program.save(path)


def write_files(model: DigitNet, learned: Split, held_out: Split, folder: Path) -> None:
    """Write `model.onnx` (any batch size), `calibration.npz` and `evaluation.npz`."""
    folder.mkdir(parents=True, exist_ok=True)
    export_model(model, learned.images[:2], folder / "model.onnx")
    np.savez_compressed(  # with labels a row is a sample of its own, as the network will see it
        folder / "calibration.npz",
        image=learned.images[:CALIBRATION_SAMPLES].numpy(),
        __labels__=learned.labels[:CALIBRATION_SAMPLES].numpy(),
    )
    np.savez_compressed(
        folder / "evaluation.npz",
        image=held_out.images.numpy(),
        __labels__=held_out.labels.numpy(),
    )


def main() -> None:
    """Train, report the held-out accuracy, write the files."""
    parser = argparse.ArgumentParser(description="Train the demo's digit classifier.")
    parser.add_argument("--out", type=Path, default=Path("graphopt/demo"))
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.use_deterministic_algorithms(mode=True)
    torch.set_num_threads(1)  # sums depend on how many threads share them
    learned, held_out = load_splits(arguments.seed)
    model = train(learned, arguments.epochs, arguments.seed)
    print(f"parameters: {sum(weight.numel() for weight in model.parameters())}")
    print(f"held-out accuracy: {accuracy(model, held_out):.4f} of {len(held_out.labels)} images")
    write_files(model, learned, held_out, arguments.out)
    for name in ("model.onnx", "calibration.npz", "evaluation.npz"):
        print(f"{name}: {(arguments.out / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
