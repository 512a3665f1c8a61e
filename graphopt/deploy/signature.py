"""Who made a bundle? The signature of its manifest, in the form of minisign.

The manifest holds the hash of every file, so that who signs it signs all of them. The format is
that of minisign 0.11 (https://jedisct1.github.io/minisign/): Ed25519 over the manifest (`Ed`) or
over its BLAKE2b-512 (`ED`), and over signature and trusted comment together.

A part of the `validate.py` of every bundle: Python 3.8, and a library for Ed25519 only when a
public key is given.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from pathlib import Path
from typing import Any

from graphopt.deploy.integrity import MANIFEST, MAX_MANIFEST_BYTES, SIGNATURE, Broken

__all__ = ["PublicKey", "check_signature"]

KEY_BYTES, SIGNATURE_BYTES, ID_BYTES = 32, 64, 8
LINES, MAX_SIGNATURE_BYTES = 4, 4096
UNTRUSTED, TRUSTED = "untrusted comment: ", "trusted comment: "


class PublicKey:
    """An Ed25519 key with the name that minisign gives it.

    Attributes:
        identity: 8 bytes by which a signature names its key.
        key: 32 bytes.
    """

    def __init__(self, identity: bytes, key: bytes) -> None:
        self.identity = identity
        self.key = key

    @classmethod
    def read(cls, text: str) -> PublicKey:
        """Read the content of a `minisign.pub`, or its second line alone; or raise `Broken`."""
        lines = [line for line in text.split("\n") if line.strip()]
        content = _decoded(lines[-1] if lines else "", "the public key")
        if len(content) != 2 + ID_BYTES + KEY_BYTES or content[:2] != b"Ed":
            raise Broken("the public key is not one of minisign")
        return cls(content[2 : 2 + ID_BYTES], content[2 + ID_BYTES :])


def check_signature(folder: Path, public_key: PublicKey) -> str:
    """Check who signed the manifest of a bundle, and return what they say of it.

    Raises:
        Broken: Not the owner of `public_key`, or the signature is missing or damaged.
    """
    manifest = _bytes(folder / MANIFEST, MAX_MANIFEST_BYTES)
    lines = _text(_bytes(folder / SIGNATURE, MAX_SIGNATURE_BYTES)).rstrip("\n").split("\n")
    heads = [line[: len(start)] for line, start in zip(lines[::2], (UNTRUSTED, TRUSTED))]  # noqa: B905 - 3.8 has no `strict`
    if len(lines) != LINES or heads != [UNTRUSTED, TRUSTED]:
        raise Broken(f"`{SIGNATURE}` is not a signature of minisign")
    signature, comment = _decoded(lines[1], f"`{SIGNATURE}`"), lines[2][len(TRUSTED) :]
    algorithm, identity = signature[:2], signature[2 : 2 + ID_BYTES]
    value, both = signature[2 + ID_BYTES :], _decoded(lines[3], f"`{SIGNATURE}`")
    if algorithm not in (b"Ed", b"ED") or len(value) != len(both) or len(both) != SIGNATURE_BYTES:
        raise Broken(f"`{SIGNATURE}` is not a signature of minisign")
    if identity != public_key.identity:
        raise Broken(
            f"signed with another key: {_name(identity)}, not {_name(public_key.identity)}"
        )
    signed = manifest if algorithm == b"Ed" else hashlib.blake2b(manifest).digest()
    _verify(public_key.key, value, signed, "the signature does not fit the manifest")
    # The comment is signed with the signature, so that neither can come from elsewhere.
    _verify(public_key.key, both, value + comment.encode(), "the trusted comment was changed")
    return f"signed with key {_name(identity)}: {comment}"


def _verify(key: bytes, signature: bytes, content: bytes, fault: str) -> None:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        _verify_with_nacl(key, signature, content, fault)
        return
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, content)
    except InvalidSignature:
        raise Broken(fault) from None


def _verify_with_nacl(key: bytes, signature: bytes, content: bytes, fault: str) -> None:
    try:
        from nacl.exceptions import BadSignatureError
        from nacl.signing import VerifyKey
    except ImportError:
        raise Broken("checking a signature needs `cryptography` or `PyNaCl`") from None
    try:
        VerifyKey(key).verify(content, signature)
    except BadSignatureError:
        raise Broken(fault) from None


def _bytes(path: Path, limit: int) -> bytes:
    # Nothing is known about these files yet: a link or an endless one must not be followed.
    odd = Broken(f"`{path.name}` is not a regular file of reasonable size")
    if not os.path.lexists(str(path)):
        raise Broken(f"`{path.name}` is missing")
    if path.is_symlink() or not path.is_file():
        raise odd
    with path.open("rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise odd
    return content


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise Broken(f"`{SIGNATURE}` is not text") from None


def _decoded(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text.strip().encode(), validate=True)
    except (binascii.Error, ValueError):
        raise Broken(f"{what} is not base64") from None


def _name(identity: Any) -> str:
    """Return a key's name as minisign prints it: a number whose first byte is the least."""
    return f"{int.from_bytes(identity, 'little'):016X}"
