"""Decoding in processes that may die: a recording that ends one costs its sender an error, nobody else."""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import weakref
from multiprocessing.connection import Connection

import numpy as np

from harness.audio.limits import Limits
from harness.audio.mono import Heard
from harness.audio.target import Target
from harness.errors import RequestError
from harness.protocols import Allocate

_BOOT = (
    "import sys; sys.path[:] = {path!r}; "
    "from harness.audio.decoder_process import main; main({control}, {samples})"
)


class DecoderPool:
    """Decoder processes, as many as there are callers at once: threads may share a pool.

    They hold nothing between recordings, and one that dies is replaced. A pool that is pickled or
    forked starts decoders of its own in the other process.
    """

    def __init__(self) -> None:
        self._idle: list[_DecoderProcess] = []
        self._owner = os.getpid()

    def __reduce__(self) -> tuple[type[DecoderPool], tuple[()]]:
        return DecoderPool, ()

    def read(
        self, payload: bytes, limits: Limits, target: Target, allocate: Allocate
    ) -> tuple[Heard, np.ndarray]:
        """Raises ``RequestError`` for what cannot be decoded, ends its decoder or takes too long."""
        limits.check_bytes(len(payload))
        decoder = self._take()
        try:
            heard = decoder.read(payload, limits, target)
            return heard, decoder.samples(heard.samples, allocate)
        finally:
            self._idle.append(decoder if decoder.alive else _DecoderProcess())

    def measure(self, payload: bytes, limits: Limits) -> Heard:
        """The recording without its samples."""
        return self.read(payload, limits, Target(), _no_samples)[0]

    def _take(self) -> _DecoderProcess:
        if self._owner != os.getpid():
            self._idle, self._owner = [], os.getpid()
        try:
            decoder = self._idle.pop()
        except IndexError:
            return _DecoderProcess()
        return decoder if decoder.alive else _DecoderProcess()


class _DecoderProcess:
    """A fresh interpreter that imports nothing of the program around it; a memory file brings samples."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._samples_fd = os.memfd_create("decoded-samples")
        with theirs:
            fds = {"control": theirs.fileno(), "samples": self._samples_fd}
            self._popen = subprocess.Popen(
                [sys.executable, "-c", _BOOT.format(path=sys.path, **fds)],
                pass_fds=list(fds.values()),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
        self._control = Connection(ours.detach())
        self._answers = select.poll()  # Connection.poll would make one for every recording
        self._answers.register(self._control, select.POLLIN)
        self._settings: tuple[Limits, Target] | None = None
        weakref.finalize(self, _end, os.getpid(), self._popen, self._control, self._samples_fd)

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def read(self, payload: bytes, limits: Limits, target: Target) -> Heard:
        try:
            if self._settings != (limits, target):
                self._settings = (limits, target)
                self._control.send_bytes(b"")  # no payload is empty: settings follow
                self._control.send_bytes(pickle.dumps(self._settings))
            self._control.send_bytes(payload)
            if not self._answers.poll(limits.max_decode_s * 1e3):
                self._popen.kill()
                self._popen.wait()
                raise RequestError(
                    f"decoding took longer than frontend.max_decode_s={limits.max_decode_s:g}: "
                    "split the recording, re-encode it or raise that limit"
                )
            answer = json.loads(self._control.recv_bytes())
        except (EOFError, OSError) as error:
            raise RequestError(
                f"the decoder died of this recording ({self._how_it_ended()}): it is damaged; export it again"
            ) from error
        if "error" in answer:
            raise RequestError(answer["error"])
        return Heard(**{**answer, "warnings": tuple(answer["warnings"])})

    def samples(self, count: int, allocate: Allocate) -> np.ndarray:
        """What ``read`` left in the memory file: float32 ``[count]``."""
        samples = allocate((count,), np.float32)
        rest, offset = samples.data.cast("B"), 0
        while offset < len(rest):
            offset += os.preadv(self._samples_fd, [rest[offset:]], offset)
        return samples

    def _how_it_ended(self) -> str:
        code = self._popen.wait()
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _no_samples(_shape: tuple[int, ...], _dtype: object) -> np.ndarray:
    return np.empty(0, np.float32)


def _end(owner: int, popen: subprocess.Popen[bytes], control: Connection, samples_fd: int) -> None:
    if os.getpid() == owner:  # not in a fork, where the process is another's child
        popen.kill()
        popen.wait()
    control.close()
    os.close(samples_fd)
