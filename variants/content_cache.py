"""Built things kept under a key of their content; an entry is whole or it is not there.

An entry is a folder, made under another name and renamed when it is complete: a build that fails or is
interrupted leaves nothing that a later run would take for an engine.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import HarnessError, UsageError

_MARK = "contents.json"
_UNFINISHED = ".unfinished-"


def user_cache(kind: str) -> Path:
    """Where things of ``kind`` are kept: they belong to the user of this machine, not to a checkout.

    Raises ``UsageError`` where there is no home folder.
    """
    return user_home() / ".cache" / "speech-serving-bench" / kind


def user_home() -> Path:
    """Raises ``UsageError`` where there is none; NeMo's libraries look for it when they are imported."""
    try:
        return Path.home()
    except RuntimeError as error:
        raise UsageError(
            f"HOME is not set and user {os.getuid()} has no entry in passwd: set HOME to a folder that this "
            "user may write to"
        ) from error


class ContentCache:
    """Entries under ``root``. Safe for several processes: the first to finish an entry wins."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, key: str) -> Path | None:
        """The folder of an entry whose files are as they were written, or None.

        A damaged entry (a full disk, a copy that broke off) is removed, so that it is built anew. Raises
        ``UsageError`` for one that another user owns or may change: what is in it will be executed.
        """
        folder = self._root / key
        if not folder.is_dir():
            return None
        for path in (self._root.resolve(), folder, *folder.iterdir()):
            _refuse_foreign(path)
        if _intact(folder):
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        return None

    @contextmanager
    def create(self, key: str) -> Iterator[Path]:
        """A folder to fill. It becomes the entry when the block ends well, and vanishes otherwise.

        Raises ``HarnessError`` naming the folder where it cannot be written.
        """
        unfinished = self._unfinished(key)
        try:
            yield unfinished
            _seal(unfinished)
            self._publish(unfinished, key)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def file(self, name: str) -> Path:
        """Path of a single file that is replaced as a whole: the timing cache."""
        return self._root / name

    def replace_file(self, name: str, content: bytes) -> None:
        """Write ``content`` at once: a reader sees the old file or the new one."""
        self._root.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self._root, prefix=_UNFINISHED)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).replace(self._root / name)

    def _unfinished(self, key: str) -> Path:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(dir=self._root, prefix=f"{_UNFINISHED}{key[:8]}-"))
        except OSError as error:
            raise HarnessError(
                f"{self._root}: cannot be written ({error.strerror}); set options.cache_dir of the choice "
                "that builds it to a folder with a few gigabytes of room"
            ) from error

    def _publish(self, unfinished: Path, key: str) -> None:
        try:
            unfinished.rename(self._root / key)
        except OSError:
            if self.get(key) is None:  # not because another process was first
                raise


def _refuse_foreign(path: Path) -> None:
    found = path.lstat()
    if found.st_uid != os.geteuid() or stat.S_ISLNK(found.st_mode) or found.st_mode & stat.S_IWOTH:
        raise UsageError(
            f"{path}: another user owns it or may change it, and what is cached is executed; remove it, or "
            "set the cache's folder (options.cache_dir of the choice, HOME) to one of your own"
        )


def _seal(folder: Path) -> None:
    contents = {path.name: _fingerprint(path) for path in sorted(folder.iterdir())}
    if not contents:
        raise HarnessError(f"{folder}: the build left no file")
    (folder / _MARK).write_text(json.dumps(contents))


def _intact(folder: Path) -> bool:
    try:
        contents = json.loads((folder / _MARK).read_text())
        return all(_fingerprint(folder / name) == mark for name, mark in contents.items())
    except (OSError, ValueError, AttributeError):
        return False


def _fingerprint(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
