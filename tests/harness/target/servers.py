"""Servers of one connection at a time each, that answer as they are told: well, badly, or not at all."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Act = Callable[[socket.socket, bytes], None]
"""What to do with a connection once its request (the bytes) has been read."""


def response(body: bytes, status: str = "200 OK", kind: str = "application/json", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def saying(text: str, more: str = "") -> bytes:
    return response(json.dumps({"text": text}).encode(), more=more)


def sends(data: bytes) -> Act:
    return lambda sock, _request: sock.sendall(data)


def hangs_up_after(data: bytes) -> Act:
    def act(sock: socket.socket, _request: bytes) -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_RDWR)

    return act


def repeats(data: bytes, pause_s: float = 0.0) -> Act:
    """Again and again until the client leaves."""

    def act(sock: socket.socket, _request: bytes) -> None:
        while True:
            sock.sendall(data)
            time.sleep(pause_s)

    return act


def silent(sock: socket.socket, _request: bytes) -> None:
    sock.settimeout(30.0)
    sock.recv(1)


@contextmanager
def serving(*acts: Act, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The base URL of a server that does ``acts`` with one request after the other, the last for all that
    follow."""
    listener = socket.create_server(("127.0.0.1", 0))
    turn = iter((*acts[:-1],))
    lock = threading.Lock()

    def next_act() -> Act:
        with lock:
            return next(turn, acts[-1])

    def converse(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            if tls is not None:
                sock = tls.wrap_socket(sock, server_side=True)
            while request := _request(sock):
                next_act()(sock, request)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=converse, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _request(sock: socket.socket) -> bytes:
    """Header and body of the next request; empty where the client has left."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    while len(body) < int(lines.get(b"content-length", b"0")):
        body += sock.recv(65536)
    return head + b"\r\n\r\n" + body
