"""The user's own recordings: bad lines are refused by number, bad files are kept to fail later."""

from __future__ import annotations

import json
import os
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.corpus.encode import encode
from harness.corpus.listen import Heard
from harness.corpus.load import load_audio_set
from harness.corpus.manifest import AudioSet, read_rows
from harness.errors import RequestError, UsageError

from .test_encode import tone


def write(folder: Path, *lines: str | dict[str, Any]) -> Path:
    path = folder / "mine.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def load(manifest: Path, **choice: int | None) -> AudioSet:
    return load_audio_set(None, manifest, manifest.parent, manifest.parent / "cache", **choice)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp3"
    path.write_bytes(encode(tone(1.5, channels=2), "mp3", 44100, 2, None))
    return path


def test_audio_filepath_alone_is_enough(tmp_path: Path, clip: Path) -> None:
    (item,) = load(write(tmp_path, {"audio_filepath": "clip.mp3"})).items
    assert item.path == clip
    assert item.duration_s == pytest.approx(1.5, abs=0.06)
    assert (item.container, item.sample_rate, item.channels) == ("mp3", 44100, 2)
    assert item.bucket == "01-02s"
    assert item.text is None
    assert item.read() == clip.read_bytes()


def test_nemos_fields_are_taken(tmp_path: Path, clip: Path) -> None:
    line = {"audio_filepath": str(clip), "duration": 1.5, "text": "héllo there", "speaker": "ignored"}
    (item,) = load(write(tmp_path, line)).items
    assert (item.path, item.text, item.bucket) == (clip, "héllo there", "01-02s")


@pytest.mark.parametrize("claimed_s", [0, 0.7, 3.0, 5000, 100_000])
def test_a_length_is_that_of_what_was_decoded_and_a_wrong_claim_is_named(
    tmp_path: Path, clip: Path, claimed_s: float
) -> None:
    manifest = write(tmp_path, "", {"audio_filepath": clip.name, "duration": claimed_s})
    found = load(manifest)
    assert found.audio_s == pytest.approx(1.5, abs=0.06)
    assert found.items[0].bucket == "01-02s"
    (warning,) = found.warnings
    assert f"{manifest.name}, line 2: the manifest says {claimed_s:g} s, decoded are 1.5" in warning


def test_many_wrong_claims_are_counted(tmp_path: Path, clip: Path) -> None:
    warnings = load(write(tmp_path, *[{"audio_filepath": clip.name, "duration": 9}] * 8)).warnings
    assert len(warnings) == 6
    assert warnings[-1] == "mine.jsonl: so do 3 more of its 8 lines"


@pytest.mark.parametrize("claimed_s", [None, 1.45, 1.59])
def test_a_claim_within_the_tolerance_is_no_warning(
    tmp_path: Path, clip: Path, claimed_s: float | None
) -> None:
    assert load(write(tmp_path, {"audio_filepath": clip.name, "duration": claimed_s})).warnings == ()


def test_a_container_that_states_no_length_has_that_of_its_sound(tmp_path: Path) -> None:
    whole = encode(tone(1.0), "webm", 48000, 1, None)
    stated = whole.index(b"\x44\x89\x88")  # Matroska's Duration becomes a Void, as a browser leaves it
    (tmp_path / "live.webm").write_bytes(whole[:stated] + b"\xec\x89" + bytes(9) + whole[stated + 11 :])
    (item,) = load(write(tmp_path, {"audio_filepath": "live.webm"})).items
    assert item.duration_s == pytest.approx(1.0, abs=0.03)


def test_each_recording_is_decoded_once_and_again_when_its_bytes_change(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write(tmp_path, {"audio_filepath": clip.name}, {"audio_filepath": clip.name})
    before = load(manifest)
    monkeypatch.setattr("harness.corpus.listen._hear", lambda *_: Heard())  # nothing more is decoded
    assert load(manifest) == before
    clip.write_bytes(encode(tone(0.5), "mp3", 16000, 1, None))
    assert [item.duration_s for item in load(manifest).items] == [None, None]
    monkeypatch.undo()
    assert load(manifest).items[0].bucket == "00-01s"


def test_a_damaged_memory_is_made_anew(tmp_path: Path, clip: Path) -> None:
    manifest = write(tmp_path, {"audio_filepath": clip.name})
    before = load(manifest)
    (tmp_path / "cache" / "heard.json").write_text('{"decoder": 1, "recordings": [')
    assert load(manifest) == before


def test_longer_than_the_limit_has_no_known_length(tmp_path: Path, clip: Path) -> None:
    manifest = write(tmp_path, {"audio_filepath": clip.name})
    for limit_s, known in ((1.0, False), (2.0, True), (1.0, False)):
        (item,) = load_audio_set(None, manifest, tmp_path, tmp_path / "cache", max_audio_s=limit_s).items
        assert (item.duration_s is not None) is known


def test_blank_lines_and_a_byte_order_mark_are_no_error(tmp_path: Path, clip: Path) -> None:
    path = write(tmp_path, "\ufeff" + json.dumps({"audio_filepath": clip.name}), "", "  ")
    assert len(load(path).items) == 1


def test_broken_recordings_stay_in_the_set(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "notes.wav").write_text("no audio in here")
    (tmp_path / "cut.mp3").write_bytes(clip.read_bytes()[:50])
    os.mkfifo(tmp_path / "pipe.wav")
    with (tmp_path / "huge.wav").open("wb") as sparse:
        sparse.truncate(1 << 40)
    names = ["missing.wav", "empty.wav", "notes.wav", "cut.mp3", ".", "clip.mp3"]
    names += [
        "pipe.wav",
        "huge.wav",
        "/dev/zero",
        "x" * 5000,
        "~nosuchuser/a.wav",
        "http://127.0.0.1:9/a.wav",
        "concat:clip.mp3",
    ]
    items = load(write(tmp_path, *({"audio_filepath": name} for name in names))).items
    assert [item.bucket for item in items] == ["unknown"] * 5 + ["01-02s"] + ["unknown"] * 7
    assert [item.duration_s is None for item in items] == [True] * 5 + [False] + [True] * 7
    for index in (0, 4, 6, 7, 8, 9):
        assert items[index].sha256 is None
        with pytest.raises(RequestError, match="cannot read the recording"):
            items[index].read()
    assert items[1].read() == b""


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{not json}", "not JSON"),
        ("[1, 2]", "not a JSON object"),
        ({"text": "hello"}, "audio_filepath is missing"),
        ({"audio_filepath": 3}, "audio_filepath is 3"),
        ({"audio_filepath": "clip.mp3", "duration": "long"}, "duration is 'long'"),
        ({"audio_filepath": "clip.mp3", "duration": -1}, "duration is -1"),
        ('{"audio_filepath": "clip.mp3", "duration": NaN}', "duration is nan"),
        ({"audio_filepath": "clip.mp3", "text": 5}, "text is 5"),
        ({"audio_filepath": "clip.mp3", "offset": 2.0}, "offset is not supported"),
        ({"audio_filepath": "clip.mp3", "text": "a \ud800 b"}, "text holds half of a UTF-16 pair"),
        ({"audio_filepath": "clip\udc80.mp3"}, "audio_filepath holds half of a UTF-16 pair"),
        ({"audio_filepath": "clip\0.mp3"}, "no file's name holds a NUL"),
        ('{"audio_filepath": "clip.mp3", "duration": ' + "9" * 5000 + "}", "a number is too long"),
        ('{"audio_filepath": "clip.mp3", "duration": ' + "9" * 400 + "}", "duration is 999"),
        ('{"audio_filepath": "clip.mp3", "snr_db": 1e30}', "snr_db is 1e+30"),
        ('{"audio_filepath": ' + "[" * 100_000 + "}", "nested too deeply"),
        ({"audio_filepath": "clip.mp3", "item_id": ["a"]}, "item_id is ['a']"),
        ({"audio_filepath": "clip.mp3", "item_id": True}, "item_id is True"),
        ({"audio_filepath": "clip.mp3", "item_id": "000001"}, "item_id '000001' is that of line 1"),
        ({"audio_filepath": "clip.mp3", "voice": 7}, "voice is 7"),
        ({"audio_filepath": "clip.mp3", "expect_failure": "yes"}, "expect_failure is 'yes'"),
    ],
)
def test_a_bad_line_is_refused_by_file_and_number(
    tmp_path: Path, clip: Path, line: str | dict[str, Any], complaint: str
) -> None:
    path = write(tmp_path, {"audio_filepath": clip.name}, "", line)
    with pytest.raises(UsageError) as caught:
        read_rows(path)
    assert f"{path}, line 3: " in str(caught.value)
    assert complaint in str(caught.value)


def test_a_manifest_that_is_missing_empty_or_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name in ("absent.jsonl", "empty.jsonl", "binary.jsonl", ".", "pipe.jsonl"):
        with pytest.raises(UsageError) as caught:
            read_rows(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_lines_end_with_newlines_alone(tmp_path: Path, clip: Path) -> None:
    text = "one\u0085two\u2028three\x0cfour"
    line = json.dumps({"audio_filepath": clip.name, "text": text}, ensure_ascii=False).replace(
        "\\f", "\\u000c"
    )
    path = tmp_path / "windows.jsonl"
    path.write_bytes(f"{line}\r\n{line}\r\n".encode())
    assert [row.text for row in read_rows(path)] == [text, text]


def test_a_row_has_its_own_id_or_that_of_its_line(tmp_path: Path) -> None:
    ids = [{"item_id": "first"}, {"item_id": 7}, {"item_id": None}, {"item_id": ""}, {}]
    rows = read_rows(write(tmp_path, *({"audio_filepath": "a.wav", **own} for own in ids)))
    assert [row.item_id for row in rows] == ["first", "7", "000003", "000004", "000005"]


def test_what_a_manifest_says_of_rate_and_channels_does_not_count(tmp_path: Path, clip: Path) -> None:
    (item,) = load(
        write(tmp_path, {"audio_filepath": clip.name, "sample_rate": 1e30, "channels": "two"})
    ).items
    assert (item.sample_rate, item.channels) == (44100, 2)


def test_bytes_that_changed_after_the_hash_are_not_served_under_it(tmp_path: Path, clip: Path) -> None:
    (item,) = load(write(tmp_path, {"audio_filepath": clip.name})).items
    clip.write_bytes(clip.read_bytes() + b"more")
    with pytest.raises(RequestError, match="altered since the audio set was loaded"):
        item.read()


@pytest.fixture
def five(tmp_path: Path) -> Path:
    names = [f"{number}.wav" for number in range(5)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(encode(tone(0.3 + number / 10), "wav", 8000, 1, None))
    return write(tmp_path, *({"audio_filepath": name} for name in names))


def test_content_hash_follows_the_content_not_the_place(tmp_path: Path, five: Path) -> None:
    before = load(five).content_hash
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in [*tmp_path.glob("*.wav"), five]:
        (elsewhere / path.name).write_bytes(path.read_bytes())
    assert load(elsewhere / five.name).content_hash == before
    (tmp_path / "3.wav").write_bytes((tmp_path / "2.wav").read_bytes())
    assert load(five).content_hash != before


def test_items_takes_the_first_or_a_seeded_choice(five: Path) -> None:
    everything = load(five)
    assert load(five, items=2).items == everything.items[:2]
    chosen = load(five, items=3, seed=1)
    assert chosen == load(five, items=3, seed=1)
    assert set(chosen.items) < set(everything.items)
    assert len({load(five, items=3, seed=seed).content_hash for seed in range(8)}) > 1
    with pytest.raises(UsageError, match="has 5 recordings"):
        load(five, items=6)


def test_channels_that_cancel_each_other_are_said_by_line_and_again_from_memory(tmp_path: Path) -> None:
    left = (8000 * np.sin(np.arange(16_000) / 7)).astype("<i2")
    with wave.open(str(tmp_path / "inverted.wav"), "wb") as out:
        out.setparams((2, 2, 16_000, 0, "NONE", "not compressed"))
        out.writeframes(np.stack([left, -left], axis=1).tobytes())
    manifest = write(tmp_path, {"audio_filepath": "inverted.wav"})
    for _ in range(2):
        (warning,) = load(manifest).warnings
        assert warning.startswith("mine.jsonl, line 1: ")
        assert "frontend.mix" in warning
