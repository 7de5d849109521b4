"""The service alone: started by its command, used by clients that are not ours, ended by a signal."""

from __future__ import annotations

import base64
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.harness.browser import CHROMIUM, page
from variants.topology.warmup import tone_wav

SMALL = ["model=fixed_cost", "frontend=webrtc"]


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The URL that the command prints, and its process."""
    command = [sys.executable, "-m", "harness.serve", *arguments, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.startswith("http://"), process.communicate(timeout=30)[1]
        yield first.split()[0], process
    finally:
        process.kill()
        process.communicate(timeout=30)


def test_it_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    sound = tmp_path / "x.wav"
    sound.write_bytes(tone_wav(1.0))
    with serving(*SMALL) as (url, process):
        endpoint = f"{url}/v1/audio/transcriptions"
        form = {"file": ("x.wav", sound.read_bytes())}
        said = httpx.post(endpoint, files=form, trust_env=False).json()["text"]
        assert said
        models = httpx.get(f"{url}/v1/models", trust_env=False).json()
        assert models["data"][0]["id"] == "fixed_cost"
        if shutil.which("curl"):
            command = ["curl", "--silent", "--noproxy", "*", "-F", f"file=@{sound}", endpoint]
            assert f'"text": "{said}"' in subprocess.run(command, capture_output=True, text=True).stdout
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "recordings from" in errors


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["io=epoll"], 2, "serves io=http"),
        (["encoder=multi_profile"], 3, "cannot run here"),
    ],
)
def test_what_cannot_be_served_is_refused(arguments: list[str], code: int, says: str) -> None:
    command = [sys.executable, "-m", "harness.serve", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert says in done.stderr


@pytest.mark.slow  # importing that client takes longer than all it does
def test_openai_s_own_client_is_answered() -> None:
    openai = pytest.importorskip("openai", reason="the extra 'clients' is not installed")
    with serving(*SMALL) as (url, _), openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        asked = {"model": "any", "file": ("x.wav", tone_wav(1.0))}
        text = client.audio.transcriptions.create(**asked).text
        verbose = client.audio.transcriptions.create(**asked, response_format="verbose_json")
        assert text == verbose.text
        events = list(client.audio.transcriptions.create(**asked, stream=True))
        assert (events[-1].type, events[-1].text) == ("transcript.text.done", text)
        with pytest.raises(openai.UnprocessableEntityError):
            client.audio.transcriptions.create(model="any", file=("x.wav", b"not audio"))


@pytest.mark.slow  # a browser starts
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_page_shows_text_and_spans_of_a_dropped_file_and_of_the_microphone(tmp_path: Path) -> None:
    recording = base64.b64encode(tone_wav(1.0)).decode()
    heard = tmp_path / "microphone.wav"
    heard.write_bytes(tone_wav(5.0))
    flags = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    device = f"--use-file-for-fake-audio-capture={heard}"
    shown = "document.querySelectorAll('#spans tr').length > 3"
    with serving(*SMALL) as (url, _), page(tmp_path / "profile", *flags, device) as tab:
        form = {"file": ("x.wav", tone_wav(1.0))}
        expected = httpx.post(f"{url}/v1/audio/transcriptions", files=form, trust_env=False).json()["text"]
        tab.open(f"{url}/")
        tab.evaluate(
            f"(() => {{ const bytes = Uint8Array.from(atob('{recording}'), (c) => c.charCodeAt(0));"
            "const moved = new DataTransfer(); moved.items.add(new File([bytes], 'x.wav'));"
            "document.getElementById('drop').dispatchEvent("
            "new DragEvent('drop', { dataTransfer: moved, bubbles: true, cancelable: true })); return 1; })()"
        )
        tab.until(shown)
        assert tab.evaluate("document.getElementById('text').textContent") == expected
        names = tab.evaluate("[...document.querySelectorAll('#spans tr')].map((r) => r.cells[0].textContent)")
        assert {"ipc", "decode", "encoder"} <= set(names)

        total = "document.getElementById('total').textContent"
        before = tab.evaluate(total)
        press = "document.getElementById('record').click()"
        tab.evaluate(press)
        tab.until("document.getElementById('record').textContent === 'Stop'")
        tab.evaluate("new Promise((done) => setTimeout(() => done(1), 1500))")
        tab.evaluate(press)
        tab.until(f"{shown} && {total} !== {before!r} && {total}.includes(' s of speech')")
        assert tab.evaluate("document.getElementById('text').className") == ""
