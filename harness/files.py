"""Writing to disk so that a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from harness.errors import HarnessError, UnavailableError, UsageError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
_WRONG_NAME = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENOENT, errno.EISDIR)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read. Raises ``OSError`` for anything else: a FIFO or a device may never end,
    never answer, or do something when it is opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def expanded(path: str | Path) -> Path:
    """``path`` with its leading ``~`` or ``~user`` written out, if there is such a user; else as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path's raises


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn what the operating system says about ``folder`` into what the user can do about it."""
    try:
        yield
    except OSError as error:
        raise _explain(folder, error) from error


def _explain(folder: Path, error: OSError) -> HarnessError:
    if error.errno in _FULL:
        return UnavailableError(
            f"{folder}: no space left on the disk; what was measured so far is kept there. "
            "Free some space or choose another folder"
        )
    if error.errno in _FORBIDDEN:
        return UsageError(f"{folder}: not writable; change its permissions or choose another folder")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return UsageError(f"{folder}: a file is in the way of this folder; choose another folder")
    if error.errno in _WRONG_NAME:
        return UsageError(f"{folder}: {error.strerror}; choose another")
    return HarnessError(f"{folder}: {error.strerror or error}")


def write_text(path: Path, text: str) -> None:
    """``write_atomically`` of UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace ``path`` by what ``write`` puts into the file it is given.

    The data reach the disk before the name does, and the name before this returns.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with explained(path.parent):
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
