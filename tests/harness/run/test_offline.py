"""What an offline run tells on its way."""

from __future__ import annotations

from harness.run.messages import Message, Reporter
from harness.run.offline import Tally


class Heard:
    """The launcher's end of the connection."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def send(self, message: Message) -> None:
        self.messages.append(message)


def test_every_recording_is_counted_with_the_speed_so_far() -> None:
    heard = Heard()
    tally = Tally(Reporter(heard), done=3)  # type: ignore[arg-type]
    tally.add(20.0)
    tally.add(40.0)
    assert [message.done for message in heard.messages] == [4, 5]
    assert all(message.text.endswith(" × real time") for message in heard.messages)
