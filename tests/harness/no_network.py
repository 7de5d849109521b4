"""A command in a namespace of its own: loopback is up, every name is asked of a server that only listens.

``python no_network.py COMMAND…``, run by ``unshare --user --map-root-user --mount --net``, ends with the
command's exit code; the names that it or its children asked for are the last line of its output, as JSON.
"""

from __future__ import annotations

import fcntl
import json
import socket
import struct
import subprocess
import sys
import tempfile
import threading

_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def name_in(query: bytes) -> str:
    """The name that a DNS query asks for (RFC 1035, section 4.1.2)."""
    labels, offset = [], 12
    while length := query[offset]:
        labels.append(query[offset + 1 : offset + 1 + length].decode(errors="replace"))
        offset += 1 + length
    return ".".join(labels)


def listen(sink: socket.socket, asked: list[str]) -> None:
    while True:
        query, sender = sink.recvfrom(512)
        asked.append(name_in(query))
        sink.sendto(query[:2] + b"\x81\x83" + query[4:], sender)  # no such name


def main() -> int:
    loopback_up()
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind(("127.0.0.1", 53))
    asked: list[str] = []
    threading.Thread(target=listen, args=(sink, asked), daemon=True).start()
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as resolver:
        resolver.write("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        resolver.flush()
        subprocess.run(["mount", "--bind", resolver.name, "/etc/resolv.conf"], check=True)
        code = subprocess.run(sys.argv[1:]).returncode
    print(json.dumps(sorted(set(asked))), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
