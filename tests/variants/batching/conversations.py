"""Clients of one engine who speak live, all at once: each in its own cuts; some hang up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from harness.protocols import Engine, Transcript, Work, WorkKind
from harness.protocols.engine import ignore
from harness.spans import SpanRecorder


@dataclass(frozen=True)
class Conversation:
    """``samples`` in pieces of ``cuts`` samples, the last repeated; ``hangs_up``: in the middle."""

    samples: np.ndarray
    cuts: tuple[int, ...]
    hangs_up: bool = False

    def pieces(self) -> list[np.ndarray]:
        ends = np.cumsum([*self.cuts, *[self.cuts[-1]] * (len(self.samples) // self.cuts[-1])])
        pieces = np.split(self.samples, ends[ends < len(self.samples)])
        return pieces[: len(pieces) // 2 + 1] if self.hangs_up else pieces


@dataclass
class _Client:
    stream_id: int
    conversation: Conversation
    works: list[Work] = field(default_factory=list)

    def __post_init__(self) -> None:
        pieces = self.conversation.pieces()
        self._left = [self._work("push", piece) for piece in pieces]
        self._left.append(self._work("abandon" if self.conversation.hangs_up else "commit"))
        self._left.insert(0, self._work("open"))

    def _work(self, kind: WorkKind, samples: np.ndarray | None = None) -> Work:
        return Work(kind, self._done, SpanRecorder(), stream_id=self.stream_id, samples=samples)

    def _done(self, work: Work) -> None:
        self.works.append(work)

    def next(self) -> Work | None:
        return self._left.pop(0) if self._left else None

    @property
    def is_over(self) -> bool:
        return bool(self.works) and self.works[-1].kind in ("commit", "abandon")


def hold(
    engine: Engine, conversations: Sequence[Conversation], at_once: int, rng: np.random.Generator
) -> list[Transcript | None]:
    """The final transcript of each, None where it hung up; at most ``at_once`` speak at the same time."""
    waiting = [_Client(n, each) for n, each in enumerate(conversations)]
    clients, active = list(waiting), []
    while waiting or active:
        while waiting and len(active) < at_once:
            active.append(waiting.pop(0))
        for client in active:
            for _ in range(rng.integers(0, 3)):
                if (work := client.next()) is not None:
                    engine.submit(work)
        for _ in range(rng.integers(0, 3)):
            engine.step()
        active = [client for client in active if not client.is_over]
    for client in clients:
        assert [work.error for work in client.works] == [None] * len(client.works)
    return [cast("Transcript | None", client.works[-1].result) for client in clients]


def alone(engine: Engine, conversation: Conversation) -> Transcript | None:
    """What the engine hears of a conversation that nobody disturbs, whose chunks come as they are spoken."""
    if conversation.hangs_up:
        return None

    def do(kind: WorkKind, samples: np.ndarray | None = None) -> Work:
        engine.submit(work := Work(kind, ignore, SpanRecorder(), stream_id=1, samples=samples))
        while engine.step():
            pass
        assert work.error is None
        return work

    do("open")
    do("push", conversation.samples)
    return cast(Transcript, do("commit").result)
