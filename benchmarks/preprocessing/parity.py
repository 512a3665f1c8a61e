"""Inputs that a bundle makes of raw things, held against those of the frameworks.

Usage:
    python benchmarks/preprocessing/parity.py [--bundle minilm.cpu-int8 --model FOLDER
        --texts sentences.txt] [--table benchmarks/preprocessing/results.md]

Images and recordings are made here, of several sizes, and go through processors of `transformers`
and through the specification that graphopt makes of what these write into
`preprocessor_config.json`. With `--bundle`, `FOLDER` is the folder of sentence-transformers that
the bundle was made of: tokens, and vectors from raw text by nothing but the bundle's own
`validate.py`, are held against those that the framework gives.

Needs transformers, torch, Pillow, and for `--bundle` sentence-transformers.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
import tempfile
import wave
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from PIL import Image
from transformers.models.whisper import feature_extraction_whisper

from graphopt.calibration.prepared_images import image_array
from graphopt.calibration.prepared_sound import sound_array
from graphopt.calibration.sample_spec import implied_spec

IMAGE_PROCESSORS = (
    "ViTImageProcessor",
    "CLIPImageProcessor",
    "ConvNextImageProcessor",
    "EfficientNetImageProcessor",
    "MobileNetV2ImageProcessor",
    "SegformerImageProcessor",
    "DetrImageProcessor",
    "BitImageProcessor",
)
SIZES = ((480, 640), (640, 480), (333, 517), (100, 90), (1200, 300))
EXTRACTORS = {
    "WhisperFeatureExtractor": {},
    "WhisperFeatureExtractor, in numpy": {},
    "WhisperFeatureExtractor, 128 bands": {"feature_size": 128},
    "WhisperFeatureExtractor, normalized": {"do_normalize": True},
    "Wav2Vec2FeatureExtractor": {},
}
SECONDS = (0.3, 5.0, 29.99, 31.5)
PACKAGES = ("transformers", "sentence-transformers", "torch", "Pillow", "numpy", "tokenizers")
Row = tuple[str, str, str]


def main() -> int:
    """Measure what was asked for, print it, and write the table."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog=(__doc__ or "").partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, help="of a sentence encoder")
    parser.add_argument("--model", type=Path, help="the folder that it was made of")
    parser.add_argument("--texts", type=Path, help="one text a line")
    parser.add_argument("--table", type=Path, help="where the table is written")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [*image_rows(Path(folder)), *sound_rows(Path(folder))]
    if given.bundle is not None:
        rows += text_rows(given.bundle, given.model, given.texts.read_text().splitlines())
    text = table(rows)
    sys.stdout.write(text)
    if given.table is not None:
        given.table.write_text(text, encoding="utf-8")
    return 0


def image_rows(folder: Path) -> Iterator[Row]:
    """Yield how far images are from those of each processor, as its defaults have it."""
    place = folder / "images"
    place.mkdir()
    files = [picture(place / f"{number}.png", size) for number, size in enumerate(SIZES)]
    for name in IMAGE_PROCESSORS:
        processor = getattr(transformers, name)()
        (place / "preprocessor_config.json").write_text(processor.to_json_string())
        spec = implied_spec(place)
        differences, shapes = [], set()
        for file in files:
            with Image.open(file) as image:
                theirs = processor(image, return_tensors="np")["pixel_values"]
            ours = image_array(file, spec)
            shapes.add(ours.shape == theirs.shape)
            if ours.shape == theirs.shape:
                differences.append(float(np.abs(ours - theirs).max()))
        yield f"{name}", outcome(differences, shapes), f"{len(files)} images"


def sound_rows(folder: Path) -> Iterator[Row]:
    """Yield how far features of recordings are from those of each extractor."""
    place = folder / "sound"
    place.mkdir()
    files = [recording(place / f"{number}.wav", length) for number, length in enumerate(SECONDS)]
    for name, settings in EXTRACTORS.items():
        extractor = getattr(transformers, name.partition(",")[0])(**settings)
        # With torch its spectrogram is one of 32-bit floats; without, of 64.
        with_torch = "numpy" not in name
        feature_extraction_whisper.is_torch_available = lambda found=with_torch: found
        (place / "preprocessor_config.json").write_text(extractor.to_json_string())
        spec = {**(implied_spec(place) or {}), **settings_of(extractor)}
        differences, shapes = [], set()
        for file, samples in files:
            theirs = extractor(
                samples, sampling_rate=16000, return_tensors="np", **settings_of_call(settings)
            )
            theirs = next(iter(theirs.values()))
            ours = sound_array(file, spec)
            shapes.add(ours.shape == theirs.shape)
            if ours.shape == theirs.shape:
                differences.append(float(np.abs(ours - theirs).max()))
        yield name, outcome(differences, shapes), f"{len(files)} recordings"


def settings_of(extractor: Any) -> dict[str, Any]:
    """Return what an extractor is told at every call, and its file does not hold."""
    held = json.loads(extractor.to_json_string())
    return {"normalize": bool(held["do_normalize"])} if "do_normalize" in held else {}


def settings_of_call(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what `WhisperFeatureExtractor` has to be told again when it is called."""
    return {"do_normalize": True} if settings.get("do_normalize") else {}


def text_rows(bundle: Path, folder: Path, texts: list[str]) -> Iterator[Row]:
    """Yield how far tokens and vectors of a bundle are from those of sentence-transformers."""
    import torch
    from sentence_transformers import SentenceTransformer

    texts = [text for text in texts if text.strip()]
    encoder = SentenceTransformer(str(folder), device="cpu")
    theirs = encoder.encode(texts, batch_size=1, convert_to_numpy=True)
    shipped = shipped_program(bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    told = json.loads((bundle / "preprocessing.json").read_text())
    preparation = shipped.Preparation(told, bundle)
    backend = shipped.OnnxRuntime()
    session = backend.open(bundle / manifest["model"]["file"], manifest["session"])
    same, pooled, ours = 0, [], []
    for text in texts:
        items = [{"text": text}]
        feed = preparation.feed(items)
        tokens = encoder.tokenize([text])
        same += all(np.array_equal(tokens[name].numpy(), feed[name]) for name in feed)
        with torch.no_grad():
            hidden = encoder[0](dict(tokens))["token_embeddings"].numpy()
        pooled.append(preparation.vectors(items, {told["vector"]["output"]: hidden})[0])
        ours.append(preparation.vectors(items, backend.run(session, feed))[0])
    yield "tokens of MiniLM", f"{same} of {len(texts)} texts the same", f"{len(texts)} texts"
    gap = float(np.abs(np.array(pooled) - theirs).max())
    yield "pooling and normalizing of the framework's own states", f"{gap:.1e}", "vectors of norm 1"
    cosines = np.sum(np.array(ours) * theirs, axis=1)
    yield (
        "vectors of the optimized model, from raw text",
        f"cosine {cosines.min():.4f} at least, {cosines.mean():.4f} in the mean",
        f"against SentenceTransformer.encode; candidate `{manifest['recipe']['candidate']}`",
    )


def shipped_program(bundle: Path) -> Any:
    """Return the bundle's own `validate.py` as a module."""
    spec = importlib.util.spec_from_file_location("validate", bundle / "validate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["validate"] = module  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def picture(path: Path, size: tuple[int, int]) -> Path:
    """Write an image of waves, edges and noise, which every filter treats in its own way."""
    height, width = size
    random = np.random.default_rng(height)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / (7 + 3 * k)) * np.cos(y / (11 - k)) for k in range(3)], axis=-1)
    edges = ((x // 37 + y // 23) % 2)[..., None] * 60.0
    noise = random.normal(0.0, 12.0, (height, width, 3))
    Image.fromarray(np.clip(90 + 70 * waves + edges + noise, 0, 255).astype(np.uint8)).save(path)
    return path


def recording(path: Path, seconds: float) -> tuple[Path, np.ndarray[Any, Any]]:
    """Write tones that glide, with noise and silence, of 16 bits; return what was written."""
    random = np.random.default_rng(int(seconds * 100))
    time = np.arange(int(seconds * 16000)) / 16000.0
    sound = 0.4 * np.sin(2 * np.pi * (200.0 + 300.0 * time % 3000.0) * time)
    sound += random.normal(0.0, 0.05, len(time)) * (np.sin(time * 3.0) > 0)
    sound[: len(sound) // 10] = 0.0
    words = np.round(np.clip(sound, -1.0, 1.0) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(words.tobytes())
    return path, words.astype(np.float32) / 32768.0


def outcome(differences: list[float], shapes: set[bool]) -> str:
    """Return the largest difference in words, and whether shapes were all the same."""
    text = f"{max(differences):.1e}" if differences else "nothing to compare"
    return text if shapes == {True} else f"{text}; **other shapes**"


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    command = (
        "`python benchmarks/preprocessing/parity.py --bundle minilm.cpu-int8 --model FOLDER "
        "--texts benchmarks/optimize/sentences.txt --table benchmarks/preprocessing/results.md`"
    )
    remark = (
        f"{versions}; {platform.machine()}, Python {platform.python_version()}. The largest "
        "difference of any element, unless it says otherwise."
    )
    lines = [
        "# Inputs of raw things beside those of the frameworks",
        "",
        command,
        "",
        remark,
        "",
        "| held against | difference | on |",
        "|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def version(name: str) -> str:
    """Return the version of a package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main())
