"""Inputs for the three real models: speech with noise, photographs; and what counts as quality.

Speech is made by `espeak-ng`, photographs are the two that come with scikit-learn. Calibration
sees one photograph and some voices, evaluation the other photograph, other voices and other noise.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import wave
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Feed = dict[str, NDArray[Any]]
Run = Callable[[Feed], Sequence[NDArray[Any]]]

RATE_HZ, CHUNK, CONTEXT = 16_000, 512, 64
CHUNKS = 300
BOXES = 50
SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "Quantization must not change what the model hears.",
    "How are you today? I am well, thank you.",
    "Seven black cats sat on a warm stone wall.",
)
CALIBRATION_VOICES = ("en", "en+f3", "de", "en+m4")
EVALUATION_VOICES = ("en-us", "en+f2", "fr", "en+m7")


class NotHere(Exception):
    """Something that the inputs are made of is not on this machine."""


@dataclass(frozen=True)
class Case:
    """One model, its inputs, and how far an optimized version is from it.

    Attributes:
        name: Folder of the model.
        limit: What must hold, in words.
        calibration: Feeds for calibration, made with a run of the original.
        quality: Original and candidate to measured numbers, and whether they are good enough.
        timed: The feed that is timed.
        gates: The same in terms of graphopt's gates, for the command line.
    """

    name: str
    limit: str
    calibration: Callable[[Run], list[Feed]]
    quality: Callable[[Run, Run], tuple[dict[str, float], bool]]
    timed: Callable[[], Feed]
    gates: tuple[str, ...]


# -- speech ----------------------------------------------------------------------------------------


def spoken(text: str, voice: str, words_per_minute: int) -> NDArray[np.float32]:
    """Return speech at 16 kHz.

    Raises:
        NotHere: `espeak-ng` is not installed.
    """
    if shutil.which("espeak-ng") is None:
        raise NotHere("espeak-ng speaks the sentences: `apt-get install espeak-ng`")
    command = ["espeak-ng", "-v", voice, "-s", str(words_per_minute), "--stdout", text]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(data)) as file:
        rate = file.getframerate()
    samples = np.frombuffer(data[44:], np.int16) / 32768.0
    at = np.arange(int(len(samples) * RATE_HZ / rate)) * rate / RATE_HZ
    return np.interp(at, np.arange(len(samples)), samples).astype(np.float32)


def noisy_speech(seed: int, voices: Sequence[str]) -> NDArray[np.float32]:
    """Return `CHUNKS` chunks of sentences between pauses, under noise whose level changes."""
    rng, length = np.random.default_rng(seed), CHUNKS * CHUNK + CONTEXT
    parts: list[NDArray[np.float32]] = []
    for number, voice in enumerate([*voices, *voices]):
        text = SENTENCES[(number + seed) % len(SENTENCES)]
        parts += [np.zeros(rng.integers(4000, 12000), np.float32)]
        parts += [spoken(text, voice, 130 + 10 * number)]
    joined = np.concatenate(parts)
    clean = np.tile(joined, length // len(joined) + 1)[:length]
    loudness = np.repeat(rng.uniform(0.2, 1.0, length // RATE_HZ + 1), RATE_HZ)[:length]
    level = np.repeat(10.0 ** rng.uniform(-3, -1, length // 8000 + 1), 8000)[:length]
    return (clean * loudness + 0.3 * level * rng.standard_normal(length)).astype(np.float32)


def listened(run: Run, audio: NDArray[np.float32]) -> Iterator[tuple[Feed, float]]:
    """Yield, chunk by chunk, what goes in and the probability of speech; the state is carried."""
    state = np.zeros((2, 1, 128), np.float32)
    for number in range(CHUNKS):
        start = number * CHUNK
        chunk = audio[None, start : start + CONTEXT + CHUNK]
        feed = {"input": chunk, "state": state, "sr": np.array(RATE_HZ, np.int64)}
        probability, state = run(feed)
        yield feed, float(probability[0, 0])


def speech_calibration(run: Run) -> list[Feed]:
    """Return the chunks of three recordings, each with the state that it found."""
    audios = [noisy_speech(seed, CALIBRATION_VOICES) for seed in (0, 1, 2)]
    return [feed for audio in audios for feed, _ in listened(run, audio)]


def speech_quality(original: Run, candidate: Run) -> tuple[dict[str, float], bool]:
    """Compare the probabilities of six recordings, chunk by chunk."""
    differences = []
    for seed in range(10, 16):
        audio = noisy_speech(seed, EVALUATION_VOICES)
        found = [[p for _, p in listened(run, audio)] for run in (original, candidate)]
        differences.append(np.abs(np.subtract(*found)))
    measured = {
        "largest difference": float(np.max(differences)),
        "mean difference": float(np.mean(differences)),
    }
    return measured, measured["largest difference"] <= 0.03


# -- photographs -----------------------------------------------------------------------------------


def photographs() -> list[NDArray[np.uint8]]:
    """Return the two photographs of scikit-learn, 427 x 640, RGB.

    Raises:
        NotHere: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise NotHere(
            "the photographs come with scikit-learn: `pip install scikit-learn`"
        ) from error
    return list(load_sample_images().images)


def crops(photograph: NDArray[Any], size: int, step: int) -> Iterator[NDArray[Any]]:
    """Yield squares of a photograph, and their mirror images."""
    height, width = photograph.shape[:2]
    for top in range(0, height - size + 1, step):
        for left in range(0, width - size + 1, step):
            crop = photograph[top : top + size, left : left + size]
            yield crop
            yield crop[:, ::-1]


def luminance(photograph: NDArray[np.uint8]) -> list[Feed]:
    """Return crops for super-resolution: luminance in 0..1."""
    grey = (photograph @ np.array([0.299, 0.587, 0.114]) / 255).astype(np.float32)
    return [{"input": np.ascontiguousarray(crop)[None, None]} for crop in crops(grey, 224, 100)]


def detector_inputs(photograph: NDArray[np.uint8]) -> list[Feed]:
    """Return crops for the detector: BGR in 0..255, channels first."""
    return [
        {"images": np.ascontiguousarray(crop[..., ::-1].transpose(2, 0, 1)[None], np.float32)}
        for crop in crops(photograph, 416, 11)
    ][::4]


def golden_inputs(model: Path, name: str) -> list[Feed]:
    """Return the real inputs that lie beside a model."""
    with np.load(model.parent / "golden.npz") as file:
        return [{name: file[key]} for key in sorted(file.files) if key.endswith(f"_{name}")]


def psnr_quality(original: Run, candidate: Run) -> tuple[dict[str, float], bool]:
    """Compare images of the other photograph: the peak is 1."""
    found = []
    for feed in luminance(photographs()[1]):
        error = np.mean(np.square(original(feed)[0] - candidate(feed)[0], dtype=np.float64))
        found.append(-10 * np.log10(max(error, 1e-12)))
    measured = {"lowest PSNR in dB": float(min(found)), "mean PSNR in dB": float(np.mean(found))}
    return measured, measured["lowest PSNR in dB"] >= 40


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the cosine between two arrays taken as vectors."""
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def boxes_quality(golden: Sequence[Feed]) -> Callable[[Run, Run], tuple[dict[str, float], bool]]:
    """Return a comparison of boxes and scores, and of the best boxes."""

    def quality(original: Run, candidate: Run) -> tuple[dict[str, float], bool]:
        box, score, same, kept = [], [], [], []
        for feed in [*detector_inputs(photographs()[1]), *golden]:
            before, after = original(feed)[0][0], candidate(feed)[0][0]
            box.append(cosine(before[:, :4], after[:, :4]))
            score.append(cosine(before[:, 4:], after[:, 4:]))
            best = np.argsort(-confidence(before))[:BOXES]
            same.append(len({*best} & {*np.argsort(-confidence(after))[:BOXES]}))
            kept.append(sum(is_kept(before[row], after[row]) for row in best))
        measured = {
            "lowest cosine of boxes": min(box),
            "lowest cosine of scores": min(score),
            "boxes kept of 50": min(kept),
            "equal of the best 50, lowest": min(same),
            "equal of the best 50, mean": float(np.mean(same)),
        }
        return measured, bool(min(*box, *score) >= 0.995 and min(kept) == BOXES)

    return quality


def confidence(rows: NDArray[Any]) -> NDArray[Any]:
    """Return objectness times the best class."""
    product: NDArray[Any] = rows[:, 4] * rows[:, 5:].max(axis=1)
    return product


def is_kept(before: NDArray[Any], after: NDArray[Any]) -> bool:
    """Tell whether a box is still there: overlap at least 0.9, the score of its class within 0.05.

    Rows are centre and logarithm of the size, in cells of the grid, then scores.
    """
    shift, sizes = np.abs(before[:2] - after[:2]), np.exp([before[2:4], after[2:4]])
    inner = np.clip(sizes.mean(axis=0) - shift, 0.0, sizes.min(axis=0)).prod()
    overlap = inner / (sizes.prod(axis=1).sum() - inner)
    best = 5 + before[5:].argmax()  # the class that it has, also where another comes near
    difference = abs(float(before[4] * before[best] - after[4] * after[best]))
    return bool(overlap >= 0.9 and difference <= 0.05)


def cases(models: Path) -> list[Case]:
    """Return the three models with their inputs."""
    detector = models / "yolox_nano_opencv_zoo" / "model.onnx"
    golden = golden_inputs(detector, "images")
    silence = {
        "input": np.zeros((1, CONTEXT + CHUNK), np.float32),
        "state": np.zeros((2, 1, 128), np.float32),
        "sr": np.array(RATE_HZ, np.int64),
    }
    return [
        Case(
            "silero_vad_16k_op15",
            "probability within 0.03 at each of 300 chunks, the state carried",
            speech_calibration,
            speech_quality,
            lambda: silence,
            ("min_cosine=0.9995",),
        ),
        Case(
            "super_resolution_10",
            "PSNR against the original at least 40 dB",
            lambda _run: luminance(photographs()[0]),
            psnr_quality,
            lambda: luminance(photographs()[1])[0],
            ("min_sqnr_db=38",),
        ),
        Case(
            "yolox_nano_opencv_zoo",
            "cosine of boxes and of scores at least 0.995, the 50 best boxes kept",
            lambda _run: detector_inputs(photographs()[0]),
            boxes_quality(golden),
            lambda: detector_inputs(photographs()[1])[0],
            ("min_cosine=0.9995",),
        ),
    ]
