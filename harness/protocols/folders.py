"""Folders that one process works in: what it leaves when it is killed can be told from what is in use.

The owner holds a lock (``flock``) on the folder itself as long as it lives; the kernel lets go of it however
the owner ends, and no other process inherits it. Whoever makes the next folder of a kind first removes those
without an owner.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

_MODE = 0o700  # mkdtemp's
SOCKETS = "speech-serving-bench-"
"""Kind of the folders in the temporary folder that hold a run's sockets."""


class OwnFolder:
    """A new folder of mode 0700 below ``parent``; its name begins with ``kind`` and ``name``."""

    def __init__(self, kind: str, parent: Path | None = None, name: str = "") -> None:
        """``parent`` is the system's temporary folder where none is given. Raises ``OSError``."""
        parent = parent or Path(tempfile.gettempdir())
        remove_abandoned(kind, parent)
        self._lock = -1
        while self._lock == -1:
            self.path = Path(tempfile.mkdtemp(prefix=kind + name, dir=parent))
            self._lock = _lock(self.path)

    def close(self) -> None:
        """Remove it with what is in it, unless it was renamed. May be called again."""
        if self._lock != -1:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()


def remove_abandoned(kind: str, parent: Path | None = None) -> None:
    """Remove this user's folders of that kind whose owner is gone."""
    for folder in (parent or Path(tempfile.gettempdir())).glob(f"{kind}*"):
        with contextlib.suppress(OSError):  # it is somebody's, or another process sweeps too
            _remove_if_abandoned(folder)


def _remove_if_abandoned(folder: Path) -> None:
    fd = _open(folder)
    try:
        found = os.fstat(fd)
        if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == _MODE:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(fd)


def _lock(folder: Path) -> int:
    """The lock on a new folder; -1 where somebody has taken it for an abandoned one and removed it."""
    try:
        fd = _open(folder)
    except FileNotFoundError:
        return -1
    fcntl.flock(fd, fcntl.LOCK_EX)
    if os.fstat(fd).st_nlink:
        return fd
    os.close(fd)
    return -1


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
