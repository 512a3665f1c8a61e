"""Train a small vision transformer on handwritten digits, and export it with labelled samples.

Usage:
    python benchmarks/quantize/digits.py --out digits

Needs torch and scikit-learn, whose 1,797 images of 8 x 8 pixels come with it. Writes `model.onnx`,
`calibration.npz` (128 training images) and `evaluation.npz` (the 540 held out, with labels):

    graphopt optimize digits/model.onnx --calibration digits/calibration.npz \
        --eval digits/evaluation.npz --metric top1
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

HELD_OUT = 540
CALIBRATION = 128
EPOCHS = 80


class DigitsTransformer(nn.Module):
    """Sixteen patches of 2 x 2 pixels, two pre-norm encoder layers of width 128, a mean, a head."""

    def __init__(self, width: int = 128, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, kernel_size=2, stride=2)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 16, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.1, activation="gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return scores, (batch, 10), of images, (batch, 1, 8, 8)."""
        tokens = self.patches(pixels).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.encoder(tokens).mean(dim=1))


def data() -> tuple[np.ndarray, np.ndarray]:
    """Return images, float32 (1797, 1, 8, 8) in [0, 1], and labels, in a seeded order."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    return (images[order] / 16).reshape(-1, 1, 8, 8).astype(np.float32), labels[order]


def trained(images: np.ndarray, labels: np.ndarray) -> DigitsTransformer:
    """Return the model, trained with a cosine schedule."""
    torch.manual_seed(0)
    model = DigitsTransformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    inputs, targets = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(inputs)).split(64):
            loss = nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return model.eval()


def main() -> None:
    """Write the model and its samples."""
    parser = argparse.ArgumentParser(description="A trained transformer with labelled samples.")
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    images, labels = data()
    model = trained(images[HELD_OUT:], labels[HELD_OUT:])
    with torch.no_grad():
        scores = model(torch.from_numpy(images[:HELD_OUT])).numpy()
    print(f"top-1 {float((scores.argmax(1) == labels[:HELD_OUT]).mean()):.4f}")
    torch.onnx.export(
        model,
        (torch.from_numpy(images[:2]),),
        out / "model.onnx",
        input_names=["pixels"],
        output_names=["scores"],
        dynamic_axes={"pixels": {0: "batch"}, "scores": {0: "batch"}},
        dynamo=False,
        opset_version=17,
    )
    # Labels cut both into rows: without them the calibration images would be one batch of 128.
    shown = slice(HELD_OUT, HELD_OUT + CALIBRATION)
    np.savez(out / "calibration.npz", pixels=images[shown], __labels__=labels[shown])
    np.savez(out / "evaluation.npz", pixels=images[:HELD_OUT], __labels__=labels[:HELD_OUT])


if __name__ == "__main__":
    main()
