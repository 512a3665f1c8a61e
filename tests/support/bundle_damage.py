"""Ways to damage a bundle, with what `validate.py` says of each."""

import io
import zipfile

from device_bundles import rewrite


def flip(folder):
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)


def rename_outside(folder):
    facts = {"sha256": "0" * 64, "size_bytes": 1}
    rewrite(folder, lambda manifest: manifest["files"].update({"a/../../b": facts}))


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


DAMAGE = {
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
    "none": (lambda folder: (folder / "manifest.json").unlink(), "`manifest.json` cannot be read"),
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
