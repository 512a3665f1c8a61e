"""Keys as minisign writes them, without the program."""

import base64
import hashlib

import pytest


def encoded(content):
    return base64.b64encode(content).decode()


def write_keys(folder, *, seed=7, identity=b"graphopt", kdf=b"\0\0"):
    """Write a pair as `minisign -G -W` does: an unprotected secret key, and the public one."""
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    folder.mkdir(exist_ok=True)
    private = ed25519.Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    public = private.public_key().public_bytes_raw()
    both = identity + private.private_bytes_raw() + public
    checksum = hashlib.blake2b(b"Ed" + both, digest_size=32).digest()
    secret = b"Ed" + kdf + b"B2" + bytes(32 + 8 + 8) + both + checksum
    (folder / "minisign.key").write_text(f"untrusted comment: secret\n{encoded(secret)}\n")
    (folder / "minisign.pub").write_text(
        f"untrusted comment: public\n{encoded(b'Ed' + identity + public)}\n"
    )
    return folder / "minisign.key", folder / "minisign.pub"
