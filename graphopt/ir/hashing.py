"""Hash functions that load a library when they are first used.

`hashlib` loads OpenSSL, 4 MB, when it is imported, also where nothing is hashed by it. Digests that
leave the process are SHA-256, at OpenSSL's speed. Those that tell within one process whether two
things are equal are BLAKE2b, which is Python's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import hashlib

__all__ = ["blake2b", "sha256"]

_DIGEST_BYTES = 32


def sha256(data: bytes = b"") -> hashlib._Hash:
    """Return a SHA-256 (FIPS 180-4) that has taken in ``data``."""
    import hashlib

    return hashlib.sha256(data, usedforsecurity=False)


def blake2b(data: bytes = b"") -> hashlib.blake2b:
    """Return a BLAKE2b (RFC 7693) of 32 bytes that has taken in ``data``."""
    try:
        from _blake2 import blake2b as own  # where `hashlib` has it from
    except ImportError:  # an interpreter that has it elsewhere
        from hashlib import blake2b as own
    return own(data, digest_size=_DIGEST_BYTES)
