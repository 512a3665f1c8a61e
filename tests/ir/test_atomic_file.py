"""Files that are there whole or not at all, also where the system will not name a nameless one."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from graphopt.errors import OutputError
from graphopt.ir import atomic_file


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.ENOENT])
def test_a_system_that_refuses_to_link_gets_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_arguments: Any, **_settings: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with atomic_file(tmp_path / "file") as stream:
        stream.write(b"whole")

    assert (tmp_path / "file").read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_no_reason_to_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any, **_settings: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", refuse)
    if not hasattr(os, "O_TMPFILE"):
        pytest.skip("files without a name are not known here")
    with pytest.raises(OutputError, match="cannot be written"), atomic_file(tmp_path / "f") as out:
        out.write(b"whole")
    assert list(tmp_path.iterdir()) == []
