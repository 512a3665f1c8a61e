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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    """A device would be gone for every program: `-o /dev/null` is not worth that."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    for name, why in (("pipe", "a device"), ("link", "a device"), ("folder", "a folder")):
        with pytest.raises(OutputError) as caught, atomic_file(tmp_path / name):
            raise AssertionError("it was opened")
        assert why in (caught.value.why or "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link", "pipe"]
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()
