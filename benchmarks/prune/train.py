"""Train the small models whose pruning is measured, and export them with samples.

Usage:
    python benchmarks/prune/train.py --out trained [--only digits_cnn digits_transformer byte_lm]
    python benchmarks/prune/train.py --out folds --folds 5 --only digits_cnn digits_transformer

Needs torch, onnxscript and scikit-learn; minutes for each on one core. Seeds are fixed. For each:

    trained/NAME/model.onnx      any batch; any length up to 256 for the language model
    trained/NAME/calibration/    feeds in batches, of what the model was trained on, without labels
    trained/NAME/labelled/       the same rows with `__labels__`, for what needs gradients of a loss
    trained/NAME/evaluation/     rows that were held out, with labels: `--metric top1`, `perplexity`
    trained/NAME/about.json      parameters, versions, and the metric of the trained model

`digits_cnn`: residual convolutions, 1.4 M parameters; `digits_transformer`: eight pre-norm blocks
of width 128, 1.6 M; both on the 1,797 images of 8 x 8 pixels that come with scikit-learn, 540 of
them held out. With `--folds K` each of these two is trained K times, as `folds/NAME/0` to `K-1`:
every image is held out once, and every model starts from a seed of its own. `byte_lm`: six causal
blocks of width 192, 2.8 M, on the source of Python's standard library, every tenth file held out;
bits per byte are `log2(perplexity)`.
"""

from __future__ import annotations

import argparse
import json
import math
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

CALIBRATION_ROWS = 512
HELD_OUT_IMAGES = 540
CONTEXT = 128
LONGEST = 256


class Attention(nn.Module):
    """Attention of several heads, with a projection of its own for each operand."""

    def __init__(self, width: int, heads: int, *, is_causal: bool) -> None:
        super().__init__()
        self.heads, self.is_causal = heads, is_causal
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return what the heads read, (batch, length, width)."""
        batch, length, width = tokens.shape
        shape = (batch, length, self.heads, width // self.heads)
        query, key, value = (
            layer(tokens).reshape(shape).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(width // self.heads)
        if self.is_causal:
            mask = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
            scores = scores.masked_fill(~mask, -1e4)
        read = (scores.softmax(dim=-1) @ value).transpose(1, 2)
        return self.out(read.reshape(batch, length, width))


class Block(nn.Module):
    """A pre-norm block: attention, then two linear layers with GELU between them."""

    def __init__(self, width: int, heads: int, *, is_causal: bool, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, is_causal=is_causal)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens, (batch, length, width), with what the block adds to them."""
        tokens = tokens + self.dropout(self.attention(self.norms[0](tokens)))
        inner = nn.functional.gelu(self.up(self.norms[1](tokens)))
        return tokens + self.dropout(self.down(inner))


class DigitsTransformer(nn.Module):
    """Sixteen patches of 2 x 2 pixels, eight blocks, the mean of the tokens, ten scores."""

    def __init__(self, width: int = 128, depth: int = 8, heads: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, kernel_size=2, stride=2)
        self.positions = nn.Parameter(0.5 * torch.randn(1, 16, width))  # as large as patches
        self.blocks = nn.Sequential(
            *(Block(width, heads, is_causal=False, dropout=0.1) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return scores, (batch, 10), of images, (batch, 1, 8, 8)."""
        tokens = self.patches(pixels).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(tokens)).mean(dim=1))


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = convolution(width, width), convolution(width, width)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return maps of the same shape."""
        return torch.relu(maps + self.second(torch.relu(self.first(maps))))


def convolution(entering: int, leaving: int) -> nn.Sequential:
    """Return a 3 x 3 convolution with its normalization."""
    layer = nn.Conv2d(entering, leaving, kernel_size=3, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(leaving))


def digits_cnn() -> nn.Module:
    """Return a network of seven convolutions and two linear layers."""
    return nn.Sequential(
        convolution(1, 64),
        nn.ReLU(),
        convolution(64, 128),
        nn.ReLU(),
        nn.MaxPool2d(2),
        Residual(128),
        convolution(128, 192),
        nn.ReLU(),
        nn.MaxPool2d(2),
        Residual(192),
        nn.Flatten(),
        nn.Linear(192 * 4, 128),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(128, 10),
    )


class ByteLanguageModel(nn.Module):
    """Causal blocks over bytes, with a head of their own."""

    def __init__(self, width: int = 192, depth: int = 6, heads: int = 6) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(256, width), nn.Embedding(LONGEST, width)
        self.blocks = nn.Sequential(
            *(Block(width, heads, is_causal=True, dropout=0.0) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 256, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits of the next byte, (batch, length, 256), of bytes, int64 (batch, length)."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        embedded = self.tokens(tokens) + self.positions(places)
        return self.head(self.norm(self.blocks(embedded)))


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images, float32 (1797, 1, 8, 8) in [0, 1], and labels, in a seeded order."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    return (images[order] / 16).reshape(-1, 1, 8, 8).astype(np.float32), labels[order]


def source_bytes() -> tuple[np.ndarray, np.ndarray]:
    """Return the bytes of the standard library that are learned from, and those held out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    apart = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "encodings"}
    files = [file for file in sorted(root.rglob("*.py")) if not apart & {*file.parts}]
    parts = [np.frombuffer(file.read_bytes(), dtype=np.uint8) for file in files]
    held = [part for number, part in enumerate(parts) if number % 10 == 9]
    learned = [part for number, part in enumerate(parts) if number % 10 != 9]
    return np.concatenate(learned), np.concatenate(held)


def rows_of(text: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return bytes, int64 (rows, CONTEXT), and the byte after each."""
    windows = text[starts[:, None] + np.arange(CONTEXT + 1)].astype(np.int64)
    return windows[:, :-1], windows[:, 1:]


Batches = Callable[[int], tuple[np.ndarray, np.ndarray]]


def train(model: nn.Module, batch_of: Batches, steps: int, rate: float, decay: float) -> None:
    """Train with AdamW, a warm-up of 5 % and a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rate, total_steps=steps, pct_start=0.05, cycle_momentum=False
    )
    model.train()
    for step in range(steps):
        inputs, targets = (torch.from_numpy(array) for array in batch_of(step))
        # Half the time for transformers where cores have it; convolutions of 8 x 8 gain nothing.
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not has_convolutions(model)):
            outputs = model(inputs).flatten(0, -2)
        loss = nn.functional.cross_entropy(outputs.float(), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"  step {step} of {steps}: loss {loss.item():.4f}", flush=True)
    model.eval()


def has_convolutions(model: nn.Module) -> bool:
    """Tell whether a model is made of convolutions of 3 x 3."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    return any(layer.kernel_size == (3, 3) for layer in layers)


def shuffled(images: np.ndarray, labels: np.ndarray, seed: int, size: int = 64) -> Batches:
    """Return seeded batches of images, each shifted by up to one pixel."""
    generator = np.random.default_rng(1 + seed)
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))

    def batch_of(_step: int) -> tuple[np.ndarray, np.ndarray]:
        rows = generator.choice(len(images), size, replace=False)
        down, right = generator.integers(0, 3, 2)
        return padded[rows, :, down : down + 8, right : right + 8], labels[rows]

    return batch_of


def write_samples(
    folder: Path, name: str, calibration: tuple[np.ndarray, ...], evaluation: tuple[np.ndarray, ...]
) -> None:
    """Write what is measured on: batches of 64 rows, and rows with labels."""
    for kind in ("calibration", "labelled", "evaluation"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    inputs, labels = calibration
    for number, start in enumerate(range(0, len(inputs), 64)):
        feed = {name: inputs[start : start + 64]}
        np.savez(folder / "calibration" / f"{number:03}.npz", **feed)
    np.savez(folder / "labelled" / "rows.npz", **{name: inputs, "__labels__": labels})
    np.savez(
        folder / "evaluation" / "rows.npz", **{name: evaluation[0], "__labels__": evaluation[1]}
    )


def export(model: nn.Module, name: str, example: np.ndarray, folder: Path) -> None:
    """Write `model.onnx`, with whatever the caller may vary left open."""
    sizes = {0: torch.export.Dim("batch", min=1, max=4096)}
    if example.ndim == 2:
        sizes[1] = torch.export.Dim("length", min=2, max=LONGEST)
    output = "logits" if example.ndim == 2 else "scores"
    torch.onnx.export(
        model,
        (torch.from_numpy(example),),
        folder / "model.onnx",
        input_names=[name],
        output_names=[output],
        dynamic_shapes=(sizes,),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def write_facts(folder: Path, model: nn.Module, seconds: float, **metric: float) -> None:
    """Write and print what was trained."""
    facts = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(seconds, 1),
        "torch": torch.__version__,
        "numpy": np.__version__,
        **metric,
    }
    (folder / "about.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(folder.name, json.dumps(facts), flush=True)


def held_out(rows: int, fold: int, folds: int) -> np.ndarray:
    """Return which images are held out, bool (rows,): the first 540, or those of a fold."""
    places = np.arange(rows)
    return places % folds == fold if folds else places < HELD_OUT_IMAGES


def make_digits(
    folder: Path,
    build: Callable[[], nn.Module],
    rate: float,
    steps: int,
    split: tuple[int, int] = (0, 0),
) -> None:
    """Train and write one of the two models of digits; `split` is a fold, its seed, of how many."""
    (fold, folds), (images, labels) = split, digits()
    held = held_out(len(images), fold, folds)
    learned = ~held
    torch.manual_seed(fold)
    start, model = time.perf_counter(), build()
    train(model, shuffled(images[learned], labels[learned], fold), steps, rate, decay=0.05)
    with torch.no_grad():
        right = model(torch.from_numpy(images[held])).argmax(dim=1).numpy() == labels[held]
    calibration = images[learned][:CALIBRATION_ROWS], labels[learned][:CALIBRATION_ROWS]
    write_samples(folder, "pixels", calibration, (images[held], labels[held]))
    export(model, "pixels", images[:2], folder)
    write_facts(folder, model, time.perf_counter() - start, top1=float(right.mean()))


def make_byte_lm(folder: Path, steps: int = 700) -> None:
    """Train and write the language model."""
    learned, held = source_bytes()
    generator = np.random.default_rng(2)
    torch.manual_seed(0)
    start, model = time.perf_counter(), ByteLanguageModel()

    def batch_of(_step: int) -> tuple[np.ndarray, np.ndarray]:
        return rows_of(learned, generator.integers(0, len(learned) - CONTEXT - 1, 24))

    train(model, batch_of, steps, rate=2e-3, decay=0.05)
    calibration = rows_of(learned, generator.integers(0, len(learned) - CONTEXT - 1, 128))
    evaluation = rows_of(held, np.linspace(0, len(held) - CONTEXT - 1, 128).astype(np.int64))
    with torch.no_grad():
        logits = model(torch.from_numpy(evaluation[0])).flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, torch.from_numpy(evaluation[1]).flatten())
    write_samples(folder, "tokens", calibration, evaluation)
    export(model, "tokens", evaluation[0][:2], folder)
    write_facts(folder, model, time.perf_counter() - start, bits_per_byte=loss.item() / math.log(2))


DIGITS: dict[str, tuple[Callable[[], nn.Module], float, int]] = {
    "digits_cnn": (digits_cnn, 2e-3, 600),  # learning rate and steps
    "digits_transformer": (DigitsTransformer, 1e-3, 600),
}


def main() -> None:
    """Train what was asked for."""
    parser = argparse.ArgumentParser(description="Trained models and samples for pruning.")
    parser.add_argument("--out", type=Path, required=True, help="folder for NAME/model.onnx")
    names = [*DIGITS, "byte_lm"]
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    parser.add_argument("--folds", type=int, default=0, help="train digits so often, by folds")
    arguments = parser.parse_args()
    if arguments.folds and not {*arguments.only} <= {*DIGITS}:
        parser.error("--folds is for models of digits: name them by --only")
    torch.set_num_threads(1)  # more would let sums depend on the machine
    for name in arguments.only:
        for fold in range(max(1, arguments.folds)):
            folder = arguments.out / name / (str(fold) if arguments.folds else "")
            folder.mkdir(parents=True, exist_ok=True)
            print(name, fold, flush=True)
            if name == "byte_lm":
                make_byte_lm(folder)
            else:
                make_digits(folder, *DIGITS[name], (fold, arguments.folds))


if __name__ == "__main__":
    main()
