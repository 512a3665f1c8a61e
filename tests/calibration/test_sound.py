"""Samples from recordings."""

import json
import wave

import numpy as np
import pytest

from graphopt.calibration import load_samples
from graphopt.calibration.prepared_sound import log_mel, mel_filters, wave_samples
from graphopt.calibration.unprepared import Unprepared
from graphopt.errors import CalibrationDataError
from graphopt.runtime import TensorSpec

MEL = TensorSpec("input_features", "float32", ("batch", 4, "frames"))
RAW = TensorSpec("input_values", "float32", ("batch", "samples"))


def write_wave(path, samples, *, width=2, channels=1, rate=8000):
    """Write integers, little-endian; those of one byte are moved up by 128."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = np.asarray(samples, np.int64) + (128 if width == 1 else 0)
    data = b"".join(int(number).to_bytes(width, "little", signed=width > 1) for number in whole)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)
    return path


def sound_spec(folder, **more):
    path = folder / "samples.json"
    told = {"kind": "audio", "source": "sound", "features": "waveform", "sampling_rate": 8000}
    path.write_text(json.dumps(told | more))
    return path


@pytest.mark.parametrize(("width", "largest"), [(1, 127), (2, 32767), (3, 8388607), (4, 2**31 - 1)])
def test_every_width_of_integers_has_the_same_scale(tmp_path, width, largest):
    limits = [0, largest, -largest - 1]
    found = wave_samples(write_wave(tmp_path / "a.wav", limits, width=width), 8000)
    assert np.allclose(found, [0.0, largest / (largest + 1), -1.0], rtol=0, atol=1e-12)


def test_channels_are_averaged(tmp_path):
    path = write_wave(tmp_path / "a.wav", [100, 300, -50, 50], channels=2)
    assert (wave_samples(path, 8000) * 32768).tolist() == [200.0, 0.0]


def test_recordings_that_cannot_be_read(tmp_path):
    path = write_wave(tmp_path / "a.wav", [1, 2, 3], rate=44100)
    with pytest.raises(Unprepared, match="expected 8000 Hz, found 44100"):
        wave_samples(path, 8000)
    with pytest.raises(Unprepared, match="no samples"):
        wave_samples(write_wave(tmp_path / "b.wav", []), 8000)
    for content in (b"", b"RIFF", b"\x00" * 100, path.read_bytes()[:30]):
        (tmp_path / "c.wav").write_bytes(content)
        with pytest.raises(Unprepared, match=r"`c\.wav` cannot be read"):
            wave_samples(tmp_path / "c.wav", 8000)


def test_waveforms_are_cut_filled_up_and_normalized(tmp_path):
    write_wave(tmp_path / "sound" / "b.wav", [8192, -8192])
    write_wave(tmp_path / "sound" / "a.wav", [16384] * 6)
    samples = load_samples(sound_spec(tmp_path, length=4, batch_size=2), inputs=[RAW])
    (feed,) = samples
    assert feed["input_values"].tolist() == [[0.5] * 4, [0.25, -0.25, 0.0, 0.0]]
    samples.check([RAW])
    (items,) = samples.items()
    assert [item["file"].rsplit("/", 1)[1] for item in items] == ["a.wav", "b.wav"]
    _, second = load_samples(sound_spec(tmp_path, length=4, normalize=True), inputs=[RAW])
    # The silence that fills it up is not part of what is normalized.
    assert np.allclose(second["input_values"], [[1.0, -1.0, 0.0, 0.0]], atol=1e-5)


def test_spectrogram_shows_a_tone_where_it_is():
    spec = {"n_fft": 400, "hop_length": 160, "n_mels": 80, "sampling_rate": 16000}
    tone = np.sin(2 * np.pi * 1000.0 * np.arange(16000) / 16000)
    found = log_mel(tone, {**spec, "max_frequency": 8000.0})
    assert found.shape == (80, 100)
    filters = mel_filters(400, 80, 16000, 8000.0)
    assert found[:, 50].argmax() == filters[:, 25].argmax()  # 1 kHz is bin 25 of 40 Hz each
    assert found.max() - found.min() <= 2.0 + 1e-9
    # A hundred times the power is two more before the division by four.
    louder = log_mel(10.0 * tone, {**spec, "max_frequency": 8000.0})
    assert np.isclose(louder.max() - found.max(), 0.5)


def test_bands_have_equal_areas_and_cover_the_range():
    filters = mel_filters(4096, 40, 16000, 8000.0)
    areas = filters.sum(axis=1) * 16000 / 4096
    assert np.allclose(areas, 1.0, atol=0.02)
    assert (filters[:, 1:-1].sum(axis=0) > 0).mean() > 0.99
    peaks = filters.argmax(axis=1) * 16000 / 4096
    low, high = peaks[peaks < 900], peaks[peaks > 1200]
    assert np.ptp(np.diff(low)) < 10.0  # linear below 1 kHz,
    assert np.ptp(high[1:] / high[:-1]) < 0.02  # by equal factors above


def test_folder_of_recordings_beside_what_whisper_writes(tmp_path):
    write_wave(tmp_path / "sound" / "a.wav", np.arange(4000) % 999)
    error = caught(load_samples, tmp_path / "sound", inputs=[MEL])
    assert "recordings" in error.why
    assert '"kind": "audio"' in error.hint
    held = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": 4,
        "sampling_rate": 8000,
        "chunk_length": 2,
        "n_fft": 200,
        "hop_length": 80,
    }
    (tmp_path / "sound" / "preprocessor_config.json").write_text(json.dumps(held))
    samples = load_samples(tmp_path / "sound", inputs=[MEL])
    samples.check([MEL])
    assert next(iter(samples))["input_features"].shape == (1, 4, 200)
    assert samples.prepared.spec["input"] == {"name": "input_features", "dtype": "float32"}


def test_recordings_of_a_model_that_takes_none(tmp_path):
    write_wave(tmp_path / "sound" / "a.wav", [1, 2])
    assert (
        "three axes"
        in caught(load_samples, sound_spec(tmp_path, features="log-mel"), inputs=[RAW]).why
    )
    assert "one input" in caught(load_samples, sound_spec(tmp_path), inputs=[RAW, MEL]).why
    (tmp_path / "sound" / "preprocessor_config.json").write_text(
        '{"feature_extractor_type": "EncodecFeatureExtractor", "sampling_rate": 8000}'
    )
    assert "is not known" in caught(load_samples, tmp_path / "sound", inputs=[RAW]).why


def caught(call, *arguments, **keywords):
    with pytest.raises(CalibrationDataError) as found:
        call(*arguments, **keywords)
    return found.value
