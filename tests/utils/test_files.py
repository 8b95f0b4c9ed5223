"""Files are whole or not there; one process writes at a time."""

import errno
import json
import math
import os
import stat
import subprocess
import sys

import pytest

from plica.utils import files
from plica.utils.files import (
    CannotWriteError,
    check_replaceable,
    copy_whole,
    filled_together,
    hash_file,
    hash_json,
    locked,
    write_json,
    write_whole,
    writing,
)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_former_file_and_nothing_else(tmp_path, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_whole(tmp_path / "file", b"before")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            write_whole(tmp_path / "file", b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"before"


@pytest.mark.skipif(os.name == "nt", reason="Windows opens no folders")
def test_a_written_file_is_flushed_to_the_disk_and_then_its_name(tmp_path, monkeypatch):
    """Without the second the file may be gone after the machine lost its power, although write_whole has returned."""
    flushed, real = [], os.fsync

    def fsync(number):
        status = os.fstat(number)
        folder = stat.S_ISDIR(status.st_mode)
        flushed.append(("folder", status.st_ino) if folder else ("file", status.st_ino, status.st_size))
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    write_whole(tmp_path / "file", b"bytes")
    names = {"file": (tmp_path / "file").stat().st_ino, "folder": tmp_path.stat().st_ino}
    assert flushed == [("file", names["file"], len(b"bytes")), ("folder", names["folder"])]


def test_one_writer_at_a_time_who_clears_what_a_killed_one_left(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / ".tmp-1-00000.parquet").touch()
    with locked(tmp_path):
        assert list((tmp_path / "parts").iterdir()) == []
        with pytest.raises(BlockingIOError, match="Another process"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == [files.LOCK]  # for the next one


def test_a_directory_whose_name_is_not_unicode_is_refused_before_it_is_made(tmp_path):
    with pytest.raises(ValueError, match="not valid Unicode"), locked(tmp_path / "a\udc80"):
        pass
    assert not list(tmp_path.iterdir())


def test_files_of_a_former_content_are_deleted_and_others_stay(tmp_path):
    for name in ("old", "other"):
        (tmp_path / name).touch()
    with filled_together(tmp_path, stale=("old", "never there")) as folder:
        (folder / "new").touch()
    assert {file.name for file in tmp_path.iterdir()} == {"new", "other"}


def test_json_holds_no_infinity(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"d": math.inf})
    write_json(tmp_path / "a.json", {"d": None})
    assert json.loads((tmp_path / "a.json").read_text()) == {"d": None}


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path):
    code = "import os, sys; from pathlib import Path; from plica.utils.files import locked\n"
    code += "with locked(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / ".lock").is_file()
    with locked(tmp_path):
        pass


def test_a_copy_has_the_same_bytes_whether_or_not_files_can_have_two_names(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"bytes")
    copy_whole(tmp_path / "a", tmp_path / "deep" / "new" / "b")
    write_whole(tmp_path / "deep" / "other" / "b", b"")  # makes its folders, too

    def refused(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    copy_whole(tmp_path / "a", tmp_path / "deep" / "new" / "c")
    assert [(file.name, file.read_bytes()) for file in sorted((tmp_path / "deep" / "new").iterdir())] == [
        ("b", b"bytes"), ("c", b"bytes")
    ]  # fmt: skip


def test_a_copy_that_was_cut_off_is_made_anew(tmp_path):
    (tmp_path / "a").write_bytes(b"bytes")
    os.link(tmp_path / "a", tmp_path / f"{files.TEMPORARY}{os.getpid()}-b")  # before it got its name
    copy_whole(tmp_path / "a", tmp_path / "b")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a": b"bytes", "b": b"bytes"}


def test_a_copy_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a").write_bytes(b"bytes")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        copy_whole(tmp_path / "a", tmp_path / "b")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(os.name == "nt", reason="Windows opens no folders")
def test_a_flushed_folder_is_closed(tmp_path, monkeypatch):
    opened, closed = [], []
    system_open, system_close = os.open, os.close
    monkeypatch.setattr(os, "open", lambda *args, **more: opened.append(system_open(*args, **more)) or opened[-1])
    monkeypatch.setattr(os, "close", lambda number: closed.append(number) or system_close(number))
    write_whole(tmp_path / "file", b"bytes")
    assert closed == opened != []


def test_hashes_are_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert hash_file(tmp_path / "a").startswith("ba7816bf8f01cfea")  # FIPS 180-2, appendix B.1
    assert hash_json({"b": 1, "a": [None]}) == hash_json({"a": [None], "b": 1}) != hash_json({"a": [0], "b": 1})


def test_a_text_is_read_up_to_20_megabytes(tmp_path):
    file = tmp_path / "text"
    for size in (20_000_000, 20_000_001):
        file.touch()
        os.truncate(file, size)
        if size == 20_000_000:
            assert len(files.read_small(file)) == size
    with pytest.raises(OSError, match="longer than 20 MB"):
        files.read_small(file)


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "give another place"),
        (errno.ENOTDIR, "give another place"),
    ],
)
def test_an_error_of_the_system_names_the_path_and_a_cure(number, cure):
    with pytest.raises(CannotWriteError, match=rf"^out cannot be written \(.*\); {cure}\.$"), writing("out"):
        raise OSError(number, os.strerror(number))
    with pytest.raises(OSError, match=r"^a sentence$"), writing("out"):
        raise OSError("a sentence")


def test_files_are_replaced_where_that_was_said_and_folders_never(tmp_path):
    (tmp_path / "file").touch()
    check_replaceable([tmp_path / "none"], overwrite=False)
    check_replaceable([tmp_path / "none", tmp_path / "file"], overwrite=True)
    with pytest.raises(FileExistsError, match="--overwrite"):
        check_replaceable([tmp_path / "none", tmp_path / "file"], overwrite=False)
    for overwrite in (True, False):
        with pytest.raises(FileExistsError, match="not a regular file"):
            check_replaceable([tmp_path], overwrite)
    with pytest.raises(OSError, match="not a regular file"):
        write_whole(tmp_path, b"")
    with pytest.raises(OSError, match="not a regular file"):
        files.read_small(tmp_path)


def test_the_file_that_marks_a_whole_directory_moves_last(tmp_path, monkeypatch):
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: moved.append(target.name) or replace(source, target))
    with filled_together(tmp_path / "new", last="b") as folder:
        for name in "cab":
            (folder / name).touch()
    assert moved == ["a", "c", "b"] or moved == ["c", "a", "b"]
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["a", "b", "c"]


def written_and_failed(file):
    file.write_text("after")
    raise KeyError


def test_a_failure_leaves_a_directory_as_it_was_and_no_new_one(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").write_text("before")
    for folder in (tmp_path / "old", tmp_path / "new" / "inside"):
        with pytest.raises(KeyError), filled_together(folder, stale=("file",)) as unfinished:
            written_and_failed(unfinished / "file")
    assert [file.name for file in tmp_path.iterdir()] == ["old"]
    assert [(file.name, file.read_text()) for file in (tmp_path / "old").iterdir()] == [("file", "before")]


def test_on_a_file_system_without_locks_none_is_left_either(tmp_path, monkeypatch):
    def none(lock, timeout):
        raise NotImplementedError

    monkeypatch.setattr(files.FileLock, "acquire", none)
    with pytest.raises(KeyError), locked(tmp_path / "new"):
        raise KeyError
    assert not list(tmp_path.iterdir())
    with locked(tmp_path / "new", keep=False):
        (tmp_path / "new" / "file").touch()
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["file"]


def test_a_lock_of_a_new_directory_leaves_none_where_nothing_was_written(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "new" / "inside"):
        raise KeyError
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyError), locked(tmp_path / "new"):
        written_and_failed(tmp_path / "new" / "file")
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [files.LOCK, "file"]
    with locked(tmp_path / "other", keep=False):
        assert (tmp_path / "other" / files.LOCK).exists()
    assert not list((tmp_path / "other").iterdir())
    (tmp_path / "plain").touch()
    with pytest.raises(NotADirectoryError, match="is a file; give a directory"), locked(tmp_path / "plain"):
        pass
