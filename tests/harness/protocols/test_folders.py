from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness.protocols.folders import OwnFolder, remove_abandoned

_KILLED = """
import os, signal, sys
from pathlib import Path
from harness.protocols.folders import OwnFolder
folder = OwnFolder("kind-", Path(sys.argv[1]))
(folder.path / "socket").touch()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_goes_with_the_next_folder_of_its_kind(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], check=False)
    (left,) = tmp_path.iterdir()
    with OwnFolder("other-", tmp_path):
        assert left.exists()
    with OwnFolder("kind-", tmp_path, "name-") as mine:
        assert list(tmp_path.iterdir()) == [mine]
        assert mine.name.startswith("kind-name-")
        assert mine.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_use_or_was_not_made_here_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kind-of-notes").mkdir(mode=0o755)
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "kind-link").symlink_to(tmp_path / "target")
    with OwnFolder("kind-", tmp_path) as mine:
        remove_abandoned("kind-", tmp_path)
        mine.rename(tmp_path / "kind-finished")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"kind-of-notes", "target", "kind-link", "kind-finished"}
