"""Bundles as one file: packed the same each time, and hostile until checked."""

import io
import json
import shutil
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from graphopt.cli.main import main
from graphopt.deploy import Bundle, archives, validate
from graphopt.errors import BundleError, OutputError

SUFFIXES = [".zip", ".tar.zst"]


@pytest.fixture(autouse=True)
def _needs_zstandard(request):
    if "tar.zst" in request.node.name:
        pytest.importorskip("zstandard")


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write_archive(path, members):
    """Write an archive of `(name, content)` without any of the care of `pack`."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members:
                archive.writestr(name, content)
        return
    import zstandard

    from graphopt.deploy.tar_stream import write_member, write_tar_end

    plain = io.BytesIO()
    for name, content in members:
        write_member(plain, name, len(content), io.BytesIO(content))
    write_tar_end(plain)
    path.write_bytes(zstandard.compress(plain.getvalue()))


def assert_refused(path, text):
    """Refused with status 2, nothing loaded, and nothing left behind but the archive."""
    report = validate(path)
    assert report.exit_code == 2
    assert text in str(report)
    assert report.to_dict()["checks"][-1]["name"] in {"archive", "manifest", "files"}
    with pytest.raises(BundleError):
        Bundle.load(path)
    assert [*path.parent.iterdir()] == [path]


@pytest.fixture
def place(tmp_path):
    """A folder with nothing else in it."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_there_and_back(bundle, place, suffix):
    packed = place / f"tiny{suffix}"
    loaded = bundle.save(packed)
    assert files_of(loaded.path) == files_of(bundle.path)
    assert packed.is_file()
    report = validate(packed)
    assert report.exit_code == 0
    assert report.to_dict()["checks"][0]["name"] == "archive"
    first = packed.read_bytes()
    bundle.save(packed, force=True)
    assert packed.read_bytes() == first


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_archive_is_not_replaced_unasked(bundle, place, suffix):
    packed = place / f"tiny{suffix}"
    packed.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already"):
        bundle.save(packed)
    assert packed.read_bytes() == b"precious"


def test_an_archive_replaces_no_folder(bundle, place):
    (place / "tiny.zip").mkdir()
    with pytest.raises(OutputError):
        bundle.save(place / "tiny.zip", force=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_flipped_byte_is_found(bundle, place, suffix):
    packed = place / f"tiny{suffix}"
    bundle.save(packed)
    whole = packed.read_bytes()
    for position in np.random.default_rng(0).integers(0, len(whole), 12):
        changed = bytearray(whole)
        changed[position] ^= 16
        packed.write_bytes(changed)
        try:  # bytes that are no content, a date for example, may change without harm
            found = Bundle.load(packed)
        except BundleError:
            continue
        assert files_of(found.path) == files_of(bundle.path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_an_archive_that_ends_too_early(bundle, place, suffix, share):
    packed = place / f"tiny{suffix}"
    bundle.save(packed)
    whole = packed.read_bytes()
    packed.write_bytes(whole[: int(share * len(whole))])
    assert_refused(packed, "")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "golden/../../evil", "evil"])
def test_a_name_that_the_manifest_does_not_have(bundle, place, suffix, name):
    files = files_of(bundle.path)
    members = [("manifest.json", files.pop("manifest.json")), (name, b"boom"), *files.items()]
    write_archive(place / f"evil{suffix}", members)
    assert_refused(place / f"evil{suffix}", f"`{name}` is not in the manifest")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_manifest_that_names_a_file_outside(bundle, place, suffix):
    files = files_of(bundle.path)
    manifest = json.loads(files.pop("manifest.json"))
    manifest["files"]["../evil"] = {"sha256": "0" * 64, "size_bytes": 4}
    members = [("manifest.json", json.dumps(manifest).encode()), ("../evil", b"boom")]
    write_archive(place / f"evil{suffix}", [*members, *files.items()])
    assert_refused(place / f"evil{suffix}", "not a plain relative path")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_file(bundle, place, suffix):
    files = files_of(bundle.path)
    first = ("manifest.json", files.pop("manifest.json"))
    del files["golden/model/1.npz"]
    write_archive(place / f"less{suffix}", [first, *files.items()])
    assert_refused(place / f"less{suffix}", "`golden/model/1.npz` is missing")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_is_there_twice(bundle, place, suffix):
    files = files_of(bundle.path)
    first = ("manifest.json", files.pop("manifest.json"))
    write_archive(place / f"two{suffix}", [first, *files.items(), ("report.html", b"other")])
    assert_refused(place / f"two{suffix}", "there twice")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_unknown_schema_version(bundle, place, suffix):
    files = files_of(bundle.path)
    manifest = json.loads(files.pop("manifest.json")) | {"schema_version": 2}
    first = ("manifest.json", json.dumps(manifest).encode())
    write_archive(place / f"new{suffix}", [first, *files.items()])
    assert_refused(place / f"new{suffix}", "unknown schema version 2")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_bomb_that_the_manifest_hides(bundle, place, suffix):
    """A file of zeros that unpacks to far more than the manifest says of it."""
    files = files_of(bundle.path)
    first = ("manifest.json", files.pop("manifest.json"))
    files["model.onnx"] = bytes(80 << 20)
    write_archive(place / f"bomb{suffix}", [first, *files.items()])
    assert (place / f"bomb{suffix}").stat().st_size < 1 << 20
    assert_refused(place / f"bomb{suffix}", "`model.onnx` is larger than it may be")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_bomb_that_the_manifest_admits(bundle, place, suffix):
    files = files_of(bundle.path)
    manifest = json.loads(files.pop("manifest.json"))
    files["model.onnx"] = bytes(80 << 20)
    manifest["files"]["model.onnx"]["size_bytes"] = 80 << 20
    first = ("manifest.json", json.dumps(manifest).encode())
    write_archive(place / f"bomb{suffix}", [first, *files.items()])
    assert_refused(place / f"bomb{suffix}", "no bundle shrinks so much")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_manifest_that_is_a_bomb(place, suffix, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MANIFEST_BYTES", 1 << 20)
    write_archive(place / f"bomb{suffix}", [("manifest.json", b" " * (2 << 20))])
    assert_refused(place / f"bomb{suffix}", "`manifest.json` is larger than it may be")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_more_than_the_disk_holds(bundle, place, suffix, monkeypatch):
    bundle.save(place / f"tiny{suffix}")
    full = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: full)
    assert_refused(place / f"tiny{suffix}", "there is no room here")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_bundle_that_would_look_like_a_bomb_is_not_packed(bundle, place, suffix, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST_EXPANSION", 0)
    monkeypatch.setattr(archives, "FREE_EXPANSION_BYTES", 0)
    with pytest.raises(BundleError, match="shrinks to less"):
        bundle.save(place / f"tiny{suffix}")
    assert not [*place.iterdir()]


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"", "damaged"), (b"PK\x03\x04" + bytes(50), "damaged"), (b"not a zip", "damaged")],
)
def test_a_zip_that_is_none(place, content, text):
    (place / "none.zip").write_bytes(content)
    assert_refused(place / "none.zip", text)


def test_a_zip_with_a_password(bundle, place):
    bundle.save(place / "tiny.zip")
    content = bytearray((place / "tiny.zip").read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        position = content.find(magic) + offset
        content[position : position + 2] = struct.pack("<H", 1)
    (place / "tiny.zip").write_bytes(content)
    assert_refused(place / "tiny.zip", "cannot be unpacked")


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar here")
def test_tar_zst_is_read_by_tar(bundle, place):

    zstandard = pytest.importorskip("zstandard")
    packed = io.BytesIO()
    archives._write_tar(packed, bundle.path, sorted(files_of(bundle.path)))
    plain = zstandard.ZstdDecompressor().stream_reader(packed.getvalue()).read()
    subprocess.run(["tar", "-x", "-C", place], input=plain, check=True)
    assert files_of(place) == files_of(bundle.path)


@pytest.mark.parametrize("kind", [b"1", b"2", b"x", b"L"])
def test_a_tar_with_links_or_extensions(place, kind):
    import tarfile

    zstandard = pytest.importorskip("zstandard")
    facts = tarfile.TarInfo("manifest.json")
    facts.type, facts.linkname = kind, "/etc/passwd"
    packed = zstandard.compress(facts.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    (place / "link.tar.zst").write_bytes(packed)
    assert_refused(place / "link.tar.zst", "is not a regular file")


def test_the_command_line_packs(bundle, place, capsys):
    assert main(["pack", str(bundle.path), "-o", str(place / "tiny.zip"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["manifest_sha256"] == validate(bundle.path).to_dict()["manifest_sha256"]
    assert main(["validate", str(place / "tiny.zip")]) == 0
    assert main(["pack", str(place / "tiny.zip"), "-o", str(place / "tiny.zip")]) == 2


def test_zip_is_read_by_python_alone(bundle, place):
    bundle.save(place / "tiny.zip")
    command = [sys.executable, "-m", "zipfile", "-e", place / "tiny.zip", place / "out"]
    subprocess.run(command, check=True)
    assert files_of(place / "out") == files_of(bundle.path)


def test_a_changed_letter_of_the_manifest_is_found(bundle, place):
    """Its own bytes are in no list of hashes: the archive's check sum must hold them."""
    zstandard = pytest.importorskip("zstandard")
    packed = place / "tiny.tar.zst"
    bundle.save(packed)
    whole = packed.read_bytes()
    assert zstandard.get_frame_parameters(whole).has_checksum
    content = zstandard.ZstdDecompressor().stream_reader(whole).read()
    for behind in (b"more", bytes(65 << 10)):
        packed.write_bytes(zstandard.compress(content + behind))
        with pytest.raises(BundleError, match="something follows the end"):
            Bundle.load(packed)
    packed.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BundleError, match="is damaged"):
        Bundle.load(packed)
