"""Ways to damage a bundle, with what `validate.py` says of each."""

import io
import zipfile

import numpy as np
from device_bundles import rewrite
from minisign_keys import write_keys


def flip(folder):
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)


FACTS = {"sha256": "0" * 64, "size_bytes": 1}


def rename_outside(folder):
    rewrite(folder, lambda manifest: manifest["files"].update({"a/../../b": FACTS}))


def describe_model(**facts):
    return lambda folder: rewrite(
        folder, lambda manifest: manifest["files"]["model.onnx"].update(facts)
    )


def link_manifest(folder):
    (folder / "manifest.json").rename(folder.parent / "moved.json")
    (folder / "manifest.json").symlink_to(folder.parent / "moved.json")


def link(folder):
    (folder / "report.html").rename(folder.parent / "moved")
    (folder / "report.html").symlink_to(folder.parent / "moved")


def require(**facts):
    return lambda folder: rewrite(folder, lambda manifest: manifest["device"].update(facts))


RECORD = "golden/inputs/1.npz"


def explode(folder):
    """Let a recorded array unpack to more than any is; the manifest fits."""
    with zipfile.ZipFile(folder / RECORD, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(65 << 20))
    rewrite(folder, rehash=[RECORD])


def explode_in_secret(folder):
    """Let the archive's table of contents say that it is small."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(65 << 20))
    size = (65 << 20).to_bytes(4, "little")
    (folder / RECORD).write_bytes(stream.getvalue().replace(size, b"\x10\0\0\0"))
    rewrite(folder, rehash=[RECORD])


def damage_record(folder):
    """Change a number in a recorded array, so that the archive's own check sum does not fit."""
    content = (folder / RECORD).read_bytes()
    at = content.index(b"\n", content.index(b"NUMPY")) + 2
    (folder / RECORD).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    rewrite(folder, rehash=[RECORD])


DAMAGE = {
    "number": (damage_record, f"`{RECORD}` cannot be read"),
    "bomb": (explode, "unpacks to 68157440 bytes"),
    "secret-bomb": (explode_in_secret, f"`{RECORD}` cannot be read"),
    "flipped": (flip, "`model.onnx` was changed"),
    "longer": (lambda folder: (folder / "report.html").write_text("x" * 99), "was changed"),
    "missing": (lambda folder: (folder / "golden/model/1.npz").unlink(), "is missing"),
    "extra": (lambda folder: (folder / "golden/x").write_text(""), "is not in the manifest"),
    "outside": (rename_outside, "is not a plain relative path"),
    "link": (link, "`report.html` is a link"),
    "version": (
        lambda folder: rewrite(folder, lambda manifest: manifest.update(schema_version=2)),
        "unknown schema version 2, expected 1",
    ),
    "key": (
        lambda folder: rewrite(folder, lambda manifest: manifest.update(more=1)),
        "`more` is unknown",
    ),
    "twice": (
        lambda folder: (folder / "manifest.json").write_text('{"target": 1, "target": 2}'),
        "a key is there twice",
    ),
    "none": (lambda folder: (folder / "manifest.json").unlink(), "`manifest.json` is missing"),
    "linked": (link_manifest, "`manifest.json` is not a regular file of reasonable size"),
    "digest": (describe_model(sha256="zz"), 'sha256` has the malformed value "zz"'),
    "long": (describe_model(sha256="0" * 300_000), "sha256` has the malformed value"),
    "negative": (describe_model(size_bytes=-1), "size_bytes` is -1, below 0"),
    "half": (describe_model(size_bytes=1.5), "size_bytes` has the wrong type (number)"),
    "level": (
        lambda folder: rewrite(
            folder, lambda manifest: manifest["session"].update(optimization="fast")
        ),
        '`session.optimization` has the unknown value "fast"',
    ),
    "endless": (
        lambda folder: rewrite(folder, lambda manifest: manifest["golden"].update(samples=10**12)),
        "it has more recorded samples than files",
    ),
    "accent": (
        lambda folder: rewrite(
            folder, lambda manifest: manifest["files"].update({"\u00fc\u20ac\U0001f600\n": FACTS})
        ),
        '"\u00fc\u20ac\U0001f600\\n" is not a plain relative path',
    ),
    "runtime": (require(minimum_onnxruntime="99.0"), "onnxruntime 99.0 or newer is needed"),
    "feature": (require(cpu_features=["abacus"]), "the CPU lacks abacus"),
    "architecture": (require(architectures=["mips", "vax"]), "it is for mips or vax, this machine"),
    "memory": (require(maximum_memory_bytes=1), "the device contract allows 1"),
    "provider": (
        lambda folder: rewrite(
            folder,
            lambda manifest: manifest["session"].update(
                providers=[{"name": "QNNExecutionProvider", "options": {}}]
            ),
        ),
        "QNNExecutionProvider is needed",
    ),
    "library": (
        lambda folder: rewrite(
            folder, lambda manifest: manifest["session"].update(config={"a": "./evil.so"})
        ),
        "names a file",
    ),
}

MISFITS = [
    lambda table: table[1].update(file="model.six.onnx"),
    lambda table: table[1].update(name="two"),
    lambda table: table.reverse(),
    lambda table: table[1]["golden"].update(samples=99),
    lambda table: table[1].pop("golden"),
]
"""Ways to make a table of variants one that does not fit its bundle."""

SIGNATURE_DAMAGE = [
    lambda text, key: (text, write_keys(key.parent / "b", identity=b"somebody")[1].read_text()),
    lambda text, key: (text, write_keys(key.parent / "b", seed=8)[1].read_text()),
    lambda text, key: (text.replace("version 1.2", "version 9.9"), key.read_text()),
    lambda text, key: ("", key.read_text()),
    lambda text, key: (text.replace("RUR", "RU!"), key.read_text()),
    lambda text, key: (text, "no key"),
    lambda text, key: (text, ""),
]
"""Functions of a signature and the file of its key: what is found in place of both."""


def odd(array):
    """Return other numbers, other answers."""
    return ~array if array.dtype == bool else array * 3 + array.dtype.type(1)


WRONG_RECORDS = {
    **{name: {name: odd} for name in ("y", "half", "label", "sign")},
    "shape": {"y": lambda array: array[:-1]},
    "flat": {"y": lambda array: array.reshape(-1)},
    "NaN": {"y": lambda array: array + np.nan},
    "infinite": {"y": lambda array: np.full_like(array, -np.inf)},
    "kind": {"y": lambda array: array.astype(np.int64)},
    "boolean": {"label": lambda array: array.astype(bool)},
    "several": {"sign": odd, "y": odd},
}
"""What to make of recorded outputs, by name, so that a model gives others."""


def record_wrongly(folder, kind, golden):
    """Change the last sample of `golden` (`model`, `original`) as one of `WRONG_RECORDS` says."""
    name = f"golden/{golden}/2.npz"
    recorded = dict(np.load(folder / name))
    for output, change in WRONG_RECORDS[kind].items():
        recorded[output] = change(recorded[output])
    np.savez(folder / name, **recorded)
    limits = {"max_rel_error": 0.01, "min_cosine": 0.9}
    gates = [
        {"name": gate, "kind": "correctness", "limit": limit, "value": 0.001, "passed": True,
         "status": "passed", "reason": None} for gate, limit in limits.items()
    ]  # fmt: skip
    rewrite(folder, lambda manifest: manifest.update(gates=gates), rehash=[name])
