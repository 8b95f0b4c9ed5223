"""Atomic writing of files, locks for one writer at a time, and file hashes.

A file is written under a temporary name, flushed to the disk and renamed, which replaces an older file in one step. If
the process dies or the disk is full, the old file is still complete.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from plica.utils.messages import one_line, plain

TEMPORARY = ".tmp-"  # how the names of unfinished files begin
LOCK = ".lock"
BLOCK = 2**20  # bytes that are hashed at a time
LONGEST = 20_000_000  # bytes of a text that people write


def read_small(file: Path) -> str:
    """The text of a file that people write: a plan, a list of rows.

    Raises:
        OSError: it cannot be read; or it is a device or a pipe, which may never end, or longer than LONGEST.
        UnicodeDecodeError: it is not text.
    """
    if file.exists() and not file.is_file():
        raise OSError(errno.EINVAL, "not a regular file")
    if file.stat().st_size > LONGEST:
        raise OSError(errno.EFBIG, f"longer than {LONGEST // 10**6} MB")
    return file.read_text(encoding="utf-8")


def write_whole(file: Path, content: bytes) -> None:
    """Write a file and its parent folders; after a failure the old file, if any, is unchanged.

    Raises:
        OSError: the disk is full, or the directory cannot be written to; or a folder, a device or a pipe is there.
    """
    if file.exists() and not file.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished(file)
    try:
        with unfinished.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, file)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
    _flush_folder(file.parent)


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write a record as JSON.

    Raises:
        ValueError: a number is infinite or not a number; JSON says null where there is none.
        OSError: as write_whole.
    """
    write_whole(file, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def copy_whole(source: Path, file: Path) -> None:
    """Give a file a second name (a hard link) where the file system can, else copy it; a failure leaves nothing behind.

    Raises:
        OSError: as write_whole.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished(file)
    unfinished.unlink(missing_ok=True)
    try:
        try:
            os.link(source, unfinished)
        except OSError:
            shutil.copyfile(source, unfinished)
        os.replace(unfinished, file)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise


class CannotWriteError(OSError):
    """A path cannot be written to; one sentence, with what to do."""


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """An error of the system in this context becomes one sentence that names the path.

    Raises:
        CannotWriteError: the disk is full, the folder of the path does not exist, or writing is not permitted.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a sentence of ours
            raise
        cure = "free some space" if is_full(error) else "give another place"
        raise CannotWriteError(f"{path} cannot be written ({one_line(error)}); {cure}.") from error


def is_full(error: OSError) -> bool:
    """Whether there was no room left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def check_replaceable(files: Iterable[Path], overwrite: bool) -> None:
    """Check that these files may be written: existing files are replaced only with `overwrite`.

    Raises:
        FileExistsError: one of them exists; or it could not be replaced, as a folder or a device.
    """
    for file in files:
        if file.exists() and not file.is_file():
            raise FileExistsError(f"{file} is there and is not a regular file; give another name.")
        if file.is_file() and not overwrite:
            raise FileExistsError(f"{file} is there already; give another name, or --overwrite to replace it.")


@contextmanager
def filled_together(directory: Path, last: str = "", stale: tuple[str, ...] = ()) -> Iterator[Path]:
    """A temporary folder; when the block ends, its files move into `directory`, and `last`, if given, after all others.

    So `last` marks a directory that is complete. A failure before the files move leaves the directory as it was:
    absent, if it is new.

    Args:
        directory: where the files belong; made if it is not there.
        last: the name of the file that moves last.
        stale: files of a former content, deleted before anything moves.
    """
    new_folders = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    unfinished = None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=directory))
        yield unfinished
        for name in stale:
            (directory / name).unlink(missing_ok=True)
        for name in sorted((file.name for file in unfinished.iterdir()), key=last.__eq__):
            os.replace(unfinished / name, directory / name)
        unfinished.rmdir()
    except BaseException:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)
        _remove_empty(new_folders)
        raise


@contextmanager
def locked(directory: Path, keep: bool = True) -> Iterator[None]:
    """One writer at a time. The system frees the lock of a process that dies; its unfinished files are deleted here.

    If the block fails and has written nothing, the directory is as before: a new one is removed.

    Args:
        directory: created if it does not exist.
        keep: do not delete the lock file, for directories that several processes use one after the other.

    Raises:
        BlockingIOError: another process writes there.
        OSError: it is not a directory, or cannot be written to.
        ValueError: its name is not valid Unicode, which some writers need.
    """
    check_unicode(directory)
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory} is a file; give a directory.")
    new_folders = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    lock = FileLock(directory / LOCK)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            message = f"Another process writes to {directory}; wait for it or give another --out."
            raise BlockingIOError(message) from None
        except NotImplementedError:
            pass  # some network file systems have no locks
    try:
        for unfinished in directory.rglob(f"{TEMPORARY}*"):
            unfinished.unlink()
        yield
    except BaseException:
        if directory.is_dir() and {path.name for path in directory.iterdir()} <= {LOCK}:  # it may have been moved
            (directory / LOCK).unlink(missing_ok=True)
            _remove_empty(new_folders)
        raise
    else:
        if not keep:
            (directory / LOCK).unlink(missing_ok=True)
    finally:
        lock.release()


def check_unicode(path: Path) -> None:
    """Raises ValueError where a path is not valid Unicode, which readers and writers in other languages need."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f"The name {plain(str(path))} is not valid Unicode; rename it, or give another.") from None


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def hash_file(file: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        for block in iter(lambda: stream.read(BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """SHA-256 of a value as JSON with sorted keys, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _unfinished(file: Path) -> Path:
    return file.with_name(f"{TEMPORARY}{os.getpid()}-{file.name}")


def _flush_folder(folder: Path) -> None:
    """A rename is on the disk when its folder is."""
    with suppress(OSError):  # Windows opens no folders
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
