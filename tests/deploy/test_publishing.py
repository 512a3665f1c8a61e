"""A directory appears at once or not at all, whatever happens while it is written."""

import dataclasses
import errno
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from graphopt.deploy import Bundle, publish, publishing, recover
from graphopt.deploy.directory_lock import DirectoryLock
from graphopt.errors import OutputError

PROGRAM = str(Path(__file__).with_name("publish_and_die.py"))


def write(destination, text, **settings):
    with publish(destination, **settings) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text(text)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def read(destination):
    return (destination / "inner" / "file").read_text()


@pytest.fixture(params=["exchange", "two steps"])
def each_way(request, monkeypatch):
    """With and without a system that can exchange two directories."""
    if request.param == "two steps":
        monkeypatch.setattr(publishing, "exchange", lambda first, second: False)


def test_a_new_directory(tmp_path):
    write(tmp_path / "new", "1")
    assert read(tmp_path / "new") == "1"
    assert names_in(tmp_path) == ["new"]


def test_the_mode_is_that_of_any_new_directory(tmp_path):
    write(tmp_path / "new", "1")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_system_here_exchanges(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert publishing.exchange(tmp_path / "a", tmp_path / "b")
    assert names_in(tmp_path / "a") == ["b"]


@pytest.mark.usefixtures("each_way")
def test_force_replaces_and_leaves_nothing_behind(tmp_path):
    write(tmp_path / "new", "1")
    (tmp_path / "new" / "obsolete").touch()
    write(tmp_path / "new", "2", force=True)
    assert read(tmp_path / "new") == "2"
    assert names_in(tmp_path / "new") == ["inner"]
    assert names_in(tmp_path) == ["new"]


def test_what_exists_is_not_replaced_unasked(tmp_path):
    write(tmp_path / "new", "1")
    with pytest.raises(OutputError, match="exists already") as caught:
        write(tmp_path / "new", "2")
    assert "--force" in caught.value.hint
    assert read(tmp_path / "new") == "1"
    assert names_in(tmp_path) == ["new"]


def test_what_appears_in_the_meantime_is_not_replaced_unasked(tmp_path):
    with pytest.raises(OutputError, match="exists already"), publish(tmp_path / "new"):
        (tmp_path / "new").mkdir()
    assert names_in(tmp_path) == ["new"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_directory_is_never_replaced(tmp_path, kind):
    (tmp_path / "other").mkdir()
    path = tmp_path / "new"
    path.write_text("x") if kind == "file" else path.symlink_to(tmp_path / "other")
    with pytest.raises(OutputError, match="cannot be replaced"):
        write(path, "1", force=True)
    assert path.is_symlink() if kind == "link" else path.read_text() == "x"
    assert names_in(tmp_path) == ["new", "other"]


def test_a_missing_parent(tmp_path):
    with pytest.raises(OutputError, match="does not exist") as caught:
        write(tmp_path / "no" / "new", "1")
    assert "mkdir -p" in caught.value.hint
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_parent_that_cannot_be_written(tmp_path, monkeypatch, number):
    def refuse(self, *arguments, **settings):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match="cannot be written") as caught:
        write(tmp_path / "new", "1")
    assert caught.value.why == os.strerror(number)


def test_a_full_disk(tmp_path):
    # The system's own limit on the size of a file stands in for a disk that is full.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(OutputError, match="cannot be written"), publish(tmp_path / "new") as at:
            (at / "big").write_bytes(bytes(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names_in(tmp_path) == []


def test_an_error_that_is_not_about_the_output_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), publish(tmp_path / "new"):
        (tmp_path / "source").read_text()
    assert names_in(tmp_path) == []


def test_an_interrupt_while_the_old_directory_is_removed_leaves_only_the_new_one(
    tmp_path, monkeypatch
):
    write(tmp_path / "new", "1")
    rmtree, calls = shutil.rmtree, []

    def interrupted(path, **settings):
        calls.append(path)
        if len(calls) == 1:
            raise KeyboardInterrupt
        rmtree(path, **settings)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "new", "2", force=True)
    assert read(tmp_path / "new") == "2"
    assert names_in(tmp_path) == ["new"]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
def test_an_interrupt_cleans_up(tmp_path, interrupt):
    write(tmp_path / "new", "1")
    with pytest.raises(interrupt), publish(tmp_path / "new", force=True) as folder:
        (folder / "half").touch()
        raise interrupt
    assert read(tmp_path / "new") == "1"
    assert names_in(tmp_path) == ["new"]


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("moment", [1, 2, 3, 4])
def test_an_interrupt_while_the_name_is_taken(tmp_path, monkeypatch, moment):
    write(tmp_path / "new", "1")
    renames = 0
    real = Path.rename

    def interrupted(self, target):
        nonlocal renames
        renames += 1
        if renames * 2 - 1 == moment:
            raise KeyboardInterrupt
        result = real(self, target)
        if renames * 2 == moment:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Path, "rename", interrupted)
    try:
        write(tmp_path / "new", "2", force=True)
    except KeyboardInterrupt:
        monkeypatch.undo()
    assert read(tmp_path / "new") in ("1", "2")
    assert names_in(tmp_path) == ["new"]


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_kept(tmp_path):
    dead = tmp_path / ".new.tmp-0123456789ab"
    alive = tmp_path / ".new.tmp-ba9876543210"
    foreign = tmp_path / ".newer.tmp-0123456789ab"
    for folder in (dead, alive, foreign):
        folder.mkdir()
        (folder / "file").touch()
    lock = DirectoryLock.try_lock(alive)
    write(tmp_path / "new", "1")
    assert names_in(tmp_path) == sorted([alive.name, "new", foreign.name])
    lock.release()
    write(tmp_path / "new", "2", force=True)
    assert names_in(tmp_path) == sorted(["new", foreign.name])


def test_a_lock_is_taken_once_and_never_on_what_is_gone(tmp_path):
    lock = DirectoryLock.try_lock(tmp_path)
    assert DirectoryLock.try_lock(tmp_path) is None
    lock.release()
    lock.release()
    DirectoryLock.try_lock(tmp_path).release()
    assert DirectoryLock.try_lock(tmp_path / "gone") is None


def test_names_with_special_letters(tmp_path):
    name = "a[b]*?c"
    (tmp_path / f".{name}.tmp-0123456789ab").mkdir()
    (tmp_path / ".abc.tmp-0123456789ab").mkdir()
    write(tmp_path / name, "1")
    assert names_in(tmp_path) == [".abc.tmp-0123456789ab", name]


def test_recovery_of_a_replacement_that_died_between_its_two_steps(tmp_path):
    write(tmp_path / "new", "1")
    (tmp_path / "new").rename(tmp_path / ".new.old-0123456789ab")
    assert recover(tmp_path / "new")
    assert read(tmp_path / "new") == "1"
    assert not recover(tmp_path / "new")


@pytest.fixture(scope="module")
def pair(parts, tmp_path_factory):
    """Two small bundles of different content, so that a mixture of both would not be whole."""
    golden = dataclasses.replace(parts.golden, samples=parts.golden.samples[:1])
    folder = tmp_path_factory.mktemp("pair")
    return [
        Bundle.build(
            dataclasses.replace(parts, golden=golden, report_html=text, seed=seed), folder / text
        )
        for seed, text in enumerate(("first", "second"))
    ]


@pytest.mark.parametrize("way", [(), ("two-steps",)])
def test_killed_at_every_step_the_destination_is_always_whole(pair, tmp_path, way):
    destination = pair[0].save(tmp_path / "shipped").path
    command = [
        sys.executable,
        PROGRAM,
        "steps",
        *(bundle.path for bundle in pair),
        destination,
        *way,
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    *deaths, (_, most, left) = [line.split() for line in result.stdout.splitlines()]
    assert len(deaths) > 50
    assert int(most) >= 1  # the dead leave something behind, and the next one removes it
    assert int(left) == 0
    # Only without an exchange is there a moment at which nothing has the name.
    assert {word for _, word in deaths} == ({"there", "recovered"} if way else {"there"})


def test_killed_at_random_moments_the_destination_is_always_whole(pair, tmp_path):
    destination = pair[0].save(tmp_path / "shipped").path
    generator = random.Random(5)  # noqa: S311 - moments, not secrets
    for _ in range(8):
        before = destination.stat().st_ino
        child = subprocess.Popen(
            [sys.executable, PROGRAM, "loop", *(bundle.path for bundle in pair), destination],
            stdout=subprocess.PIPE,
        )
        with child:
            assert child.stdout.readline() == b"ready\n"
            while destination.stat().st_ino == before:
                time.sleep(0.001)  # until it is at work
            time.sleep(generator.uniform(0, 0.05))
            child.kill()
        Bundle.load(destination)
    pair[0].save(destination, force=True)
    assert names_in(tmp_path) == ["shipped"]
