"""Writing to disk so that a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from harness.errors import HarnessError, UnavailableError, UsageError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


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
    return HarnessError(f"{folder}: {error.strerror or error}")


def write_text(path: Path, text: str) -> None:
    """``write_atomically`` of UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace ``path`` by what ``write`` puts into the file it is given.

    The data reach the disk before the name does, and the name before this returns.
    """
    temporary = path.with_name(path.name + ".tmp")
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
