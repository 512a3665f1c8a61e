"""Signing a bundle with a key of minisign."""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path

from graphopt.deploy.integrity import MANIFEST, SIGNATURE
from graphopt.deploy.signature import TRUSTED, UNTRUSTED
from graphopt.errors import MissingExtraError, OptionError, reason_of

__all__ = ["sign"]

_SECRET_BYTES = 2 + 2 + 2 + 32 + 8 + 8 + 8 + 64 + 32
_PLAIN = b"\0\0"  # where the name of a key derivation would stand


def sign(folder: Path, secret_key: Path, comment: str = "") -> Path:
    """Write the signature of a bundle's manifest, prehashed as minisign writes it.

    Args:
        folder: The bundle.
        secret_key: A key without a password, made with `minisign -G -W`. With another one let
            minisign sign: `minisign -S -m BUNDLE/manifest.json`.
        comment: One line that is signed too, and shown by who checks it.

    Returns:
        The file of the signature.

    Raises:
        OptionError: The key cannot be used, or the comment is not one line.
        MissingExtraError: `cryptography` is not installed.
    """
    if not comment.isprintable():
        raise OptionError("the comment of a signature is one line", why=f"it is {comment!r}")
    identity, seed = _read_secret(secret_key)
    digest = hashlib.blake2b((folder / MANIFEST).read_bytes()).digest()
    signature = _signed(seed, digest)
    lines = (
        f"{UNTRUSTED}signature of a graphopt bundle",
        _encoded(b"ED" + identity + signature),
        f"{TRUSTED}{comment}",
        _encoded(_signed(seed, signature + comment.encode())),
    )
    path = folder / SIGNATURE
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _read_secret(path: Path) -> tuple[bytes, bytes]:
    """Return the key's name (8 bytes) and its seed (32 bytes)."""
    try:
        content = base64.b64decode(path.read_text(encoding="utf-8").splitlines()[1], validate=True)
    except (OSError, ValueError, IndexError, binascii.Error) as error:
        raise OptionError(
            f"`{path}` is not a secret key of minisign", why=reason_of(error)
        ) from error
    if len(content) != _SECRET_BYTES or content[:2] != b"Ed":
        raise OptionError(f"`{path}` is not a secret key of minisign")
    if content[2:4] != _PLAIN:
        raise OptionError(
            f"`{path}` is protected by a password",
            hint="sign with `minisign -S -s KEY -m BUNDLE/manifest.json`",
        )
    # Behind algorithms, salt and limits of the derivation: the name, then the seed of the key.
    return content[54:62], content[62:94]


def _signed(seed: bytes, content: bytes) -> bytes:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise MissingExtraError(
            "signing needs cryptography", hint="`pip install 'graphopt[signatures]'`"
        ) from error
    return Ed25519PrivateKey.from_private_bytes(seed).sign(content)


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()
