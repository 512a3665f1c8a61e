"""What each release of ONNX Runtime loads: the newest opset and IR version."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.errors import OptionError

__all__ = ["NEWEST_IR_VERSION", "NEWEST_OPSET", "newest_ir_version", "newest_opset", "release_key"]

# Measured with the wheels: the release itself, or the first one tried that does (1.25 and 1.27 to
# 1.31 were not).
NEWEST_OPSET: Mapping[str, int] = {
    "1.16": 19, "1.17": 20, "1.18": 21, "1.21": 22, "1.23": 23, "1.24": 25, "1.26": 26, "1.32": 27,
}  # fmt: skip
"""Release to the newest opset of the default domain that it loads; releases between have the
number of the one before."""

NEWEST_IR_VERSION: Mapping[str, int] = {"1.16": 9, "1.18": 10, "1.23": 11, "1.24": 13, "1.32": 14}
"""Likewise, the newest IR version."""


def release_key(release: str) -> tuple[int, ...]:
    """Return what orders releases: ``1.9`` is older than ``1.16``, ``1.20`` than ``1.20.1``.

    >>> release_key("1.16") > release_key("1.9.2")
    True
    """
    return tuple(int(part) for part in release.split("."))


def newest_opset(release: str) -> int:
    """Return the newest opset of the default domain that a release of ONNX Runtime loads.

    Raises:
        OptionError: The release is older than all that were tried.
    """
    return _newest(NEWEST_OPSET, release)


def newest_ir_version(release: str) -> int:
    """Return the newest IR version that a release of ONNX Runtime loads.

    Raises:
        OptionError: The release is older than all that were tried.
    """
    return _newest(NEWEST_IR_VERSION, release)


def _newest(table: Mapping[str, int], release: str) -> int:
    known = [name for name in table if release_key(name) <= release_key(release)]
    if not known:
        oldest = min(table, key=release_key)
        raise OptionError(
            f"nothing is known of onnxruntime {release}",
            why=f"the oldest release that was tried is {oldest}",
            hint=f'set `maximum_onnxruntime = "{oldest}"`, or newer, under `[device]`',
        )
    # By the numbers, not as text: 1.9 came before 1.16.
    return table[max(known, key=release_key)]
