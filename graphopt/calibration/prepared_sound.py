"""Sound as inputs of a model, from `.wav` files. Part of `validate.py`: see `unprepared`."""

from __future__ import annotations

import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.calibration.unprepared import Unprepared

__all__ = ["log_mel", "mel_filters", "sound_array", "wave_samples"]

LEAST_POWER = 1e-10
LEAST_VARIANCE = 1e-7
# The scale of M. Slaney's Auditory Toolbox (1998): linear up to 1 kHz, then 27 steps to 6.4 times.
HZ_PER_MEL, BREAK_HZ = 200.0 / 3.0, 1000.0
LOG_STEP = np.log(6.4) / 27.0


def sound_array(path: Path, spec: Mapping[str, Any]) -> Any:
    """Return one recording as a model wants it.

    Args:
        path: A `.wav` file of integers at `sampling_rate`; channels are averaged.
        spec: `features` (`waveform` or `log-mel`), `sampling_rate` in Hz, `normalize`, `length` in
            samples (cut or filled up with silence; null: as it is), and for `log-mel` `n_fft`,
            `hop_length`, `n_mels`, `max_frequency`.

    Returns:
        (1, samples), or (1, mels, frames), of 32-bit floats.

    Raises:
        Unprepared: It cannot be read, or has another rate.
    """
    samples = wave_samples(path, spec["sampling_rate"]).astype(np.float64)
    samples = samples[: spec["length"]]
    if spec["normalize"]:
        samples = (samples - samples.mean()) / np.sqrt(samples.var() + LEAST_VARIANCE)
    if spec["length"]:
        samples = np.pad(samples, (0, spec["length"] - len(samples)))
    if spec["features"] == "waveform":
        return samples.astype(np.float32)[None]
    return log_mel(samples, spec).astype(np.float32)[None]


def wave_samples(path: Path, rate: int) -> Any:
    """Return the samples of a `.wav` file in [-1, 1), its channels averaged.

    Raises:
        Unprepared: It cannot be read, holds nothing, or has another rate than `rate` in Hz.
    """
    try:
        with wave.open(str(path), "rb") as file:
            width, channels, found = file.getsampwidth(), file.getnchannels(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise Unprepared(
            f"`{path.name}` cannot be read", f"{error or 'it ends too early'}"
        ) from None
    if found != rate:
        raise Unprepared(
            f"`{path.name}` has another sampling rate", f"expected {rate} Hz, found {found} Hz",
            f"ffmpeg -i {path.name} -ar {rate} OUT.wav",
        )  # fmt: skip
    usable = len(data) - len(data) % (width * channels)
    if usable == 0:
        raise Unprepared(f"`{path.name}` cannot be read", "it holds no samples")
    samples = _integers(data[:usable], width) / float(1 << (8 * width - 1))
    return samples.reshape(-1, channels).mean(axis=1)


def _integers(data: bytes, width: int) -> Any:
    """Return little-endian samples of 1 to 4 bytes; those of one byte have no sign."""
    if width == 1:
        return np.frombuffer(data, np.uint8).astype(np.float64) - 128.0
    parts = np.frombuffer(data, np.uint8).reshape(-1, width)
    whole = np.zeros((len(parts), 4), np.uint8)
    whole[:, 4 - width :] = parts  # the sign must be in the highest byte
    return (whole.view("<i4")[:, 0] >> (32 - 8 * width)).astype(np.float64)


def log_mel(samples: Any, spec: Mapping[str, Any]) -> Any:
    """Return the logarithmic mel spectrogram on which Whisper was trained.

    Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", section 2.2:
    power in windows of `n_fft` samples every `hop_length`, in `n_mels` bands up to `max_frequency`,
    its logarithm to the base 10, all within 8 of the largest, moved to about [-1, 1].

    Returns:
        (mels, frames), as many frames as `hop_length` fits into `samples`.
    """
    size, hop = spec["n_fft"], spec["hop_length"]
    if len(samples) <= size // 2:
        raise Unprepared("a recording is too short", f"it has {len(samples)} samples")
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(size) / size)
    around = np.pad(samples, size // 2, mode="reflect")
    starts = hop * np.arange(len(samples) // hop)  # the last frame is left out
    frames = around[starts[:, None] + np.arange(size)] * window
    power = np.abs(np.fft.rfft(frames)) ** 2
    filters = mel_filters(size, spec["n_mels"], spec["sampling_rate"], spec["max_frequency"])
    found = np.log10(np.maximum(filters @ power.T, LEAST_POWER))
    return (np.maximum(found, found.max() - 8.0) + 4.0) / 4.0


def mel_filters(size: int, bands: int, rate: float, highest: float) -> Any:
    """Return triangles of equal area, evenly spaced on the mel scale from 0 Hz to `highest`.

    Returns:
        (bands, size // 2 + 1): what each frequency of a transform of `size` samples adds to a band.
    """
    edges = _hertz(np.linspace(0.0, _mels(highest), bands + 2))[:, None]
    frequencies = np.arange(size // 2 + 1) * (rate / size)
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))


def _mels(hertz: float) -> float:
    if hertz < BREAK_HZ:
        return hertz / HZ_PER_MEL
    return BREAK_HZ / HZ_PER_MEL + float(np.log(hertz / BREAK_HZ) / LOG_STEP)


def _hertz(mels: Any) -> Any:
    above = np.maximum(mels - BREAK_HZ / HZ_PER_MEL, 0.0)
    return np.where(above > 0, BREAK_HZ * np.exp(LOG_STEP * above), HZ_PER_MEL * mels)
