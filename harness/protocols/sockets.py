"""Where a server listens, for both sides of a connection, and how many connections fit."""

from __future__ import annotations

import ipaddress
import os
import resource
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UnavailableError, UsageError

_FOLDER_MODE = 0o700
_SOCKET_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Address:
    """A Unix domain socket (``path``) or a TCP endpoint on loopback (``host``, ``port``)."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


def connect(address: Address, timeout_s: float = 5.0) -> socket.socket:
    """A connected socket with ``timeout_s`` as its timeout. Raises ``OSError``."""
    if address.path:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    else:
        sock = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.settimeout(timeout_s)
    try:
        sock.connect(address.path or (address.host, address.port))
    except OSError:
        sock.close()
        raise
    return sock


def listen(address: Address, backlog: int) -> tuple[socket.socket, Address]:
    """A listening socket and its address, with the port that the system chose for port 0.

    The Unix socket has mode 0600 and lies in a folder of mode 0700 that belongs to this user: the
    folder is made if it is missing, and refused (``UsageError``) if others can enter or replace it.
    """
    return _listen_unix(address, backlog) if address.path else _listen_tcp(address, backlog)


def _listen_unix(address: Address, backlog: int) -> tuple[socket.socket, Address]:
    path = Path(address.path)
    _private_folder(path.parent)
    _remove_stale(address)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Linux gives the new node the mode of the socket's inode, so that it never exists with
        # another mode; a umask would change the whole process.
        os.fchmod(sock.fileno(), _SOCKET_MODE)
        sock.bind(str(path))
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise UsageError(f"io.options.path={path}: cannot listen there ({error})") from error
    return sock, address


def _private_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        found = folder.stat()
        above = [parent for parent in folder.resolve().parents if _anybody_can_replace(parent)]
    except OSError as error:
        raise UsageError(f"io.options.path: cannot make the folder {folder} ({error.strerror})") from error
    if above:
        raise UsageError(
            f"io.options.path: anybody may write to {above[0]} and put another folder in the place of "
            f"{folder}; `chmod o-w` it or name a folder elsewhere"
        )
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise UsageError(f"io.options.path: others can enter {folder}; `chmod 700` it or name another folder")


def _anybody_can_replace(folder: Path) -> bool:
    """Whether others may rename what is in ``folder``, or the folder is another user's altogether. The sticky
    bit (as on /tmp) leaves that to each entry's owner."""
    found = folder.stat()
    foreign = found.st_uid not in (0, os.geteuid())
    return foreign or found.st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH


def _remove_stale(address: Address) -> None:
    """Remove a socket that nobody answers any more; refuse to take over a live one."""
    path = Path(address.path)
    if not path.exists():
        return
    if not path.is_socket():
        raise UsageError(f"io.options.path={path} exists and is not a socket; name another path")
    try:
        connect(address, timeout_s=1.0).close()
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
        return
    except OSError:
        pass
    raise UsageError(f"io.options.path={path}: another server listens there; stop it or name another path")


def _listen_tcp(address: Address, backlog: int) -> tuple[socket.socket, Address]:
    try:
        loopback = ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise UsageError(f"io.options.host={address.host!r}: only loopback addresses, such as 127.0.0.1")
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address.host, address.port))
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise UsageError(f"io.options.port={address.port}: cannot listen there ({error})") from error
    return sock, Address(host=address.host, port=sock.getsockname()[1])


def raise_open_files(needed: int, purpose: str) -> None:
    """Lift this process's soft limit of open files to ``needed`` where it is lower.

    Raises ``UnavailableError`` that names the hard limit when ``purpose`` does not fit under it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise UnavailableError(
            f"{purpose} needs {needed} open files and the hard limit is {hard}: use fewer, "
            f"or raise it (`ulimit -Hn {needed}`, or LimitNOFILE= of the service)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
