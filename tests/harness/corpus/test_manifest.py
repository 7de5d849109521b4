"""The user's own recordings: bad lines are refused by number, bad files are kept to fail later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.corpus.encode import encode
from harness.corpus.load import load_audio_set
from harness.corpus.manifest import AudioSet, read_manifest
from harness.errors import RequestError, UsageError

from .test_encode import tone


def write(folder: Path, *lines: str | dict[str, Any]) -> Path:
    path = folder / "mine.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp3"
    path.write_bytes(encode(tone(1.5, channels=2), "mp3", 44100, 2, None))
    return path


def test_audio_filepath_alone_is_enough(tmp_path: Path, clip: Path) -> None:
    (item,) = read_manifest(write(tmp_path, {"audio_filepath": "clip.mp3"})).items
    assert item.path == clip
    assert item.duration_s == pytest.approx(1.5, abs=0.06)
    assert (item.container, item.sample_rate, item.channels) == ("mp3", 44100, 2)
    assert item.bucket == "01-02s"
    assert item.text is None
    assert item.read() == clip.read_bytes()


def test_nemos_fields_are_taken(tmp_path: Path, clip: Path) -> None:
    line = {"audio_filepath": str(clip), "duration": 7.5, "text": "héllo there", "speaker": "ignored"}
    (item,) = read_manifest(write(tmp_path, line)).items
    assert (item.path, item.duration_s, item.text, item.bucket) == (clip, 7.5, "héllo there", "05-10s")


def test_blank_lines_and_a_byte_order_mark_are_no_error(tmp_path: Path, clip: Path) -> None:
    path = write(tmp_path, "\ufeff" + json.dumps({"audio_filepath": clip.name}), "", "  ")
    assert len(read_manifest(path).items) == 1


def test_broken_recordings_stay_in_the_set(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "notes.wav").write_text("no audio in here")
    (tmp_path / "cut.mp3").write_bytes(clip.read_bytes()[:50])
    names = ["missing.wav", "empty.wav", "notes.wav", "cut.mp3", ".", "clip.mp3"]
    items = read_manifest(write(tmp_path, *({"audio_filepath": name} for name in names))).items
    assert [item.bucket for item in items] == ["unknown"] * 5 + ["01-02s"]
    assert [item.duration_s is None for item in items] == [True] * 5 + [False]
    for index in (0, 4):
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
        ({"audio_filepath": 3}, "audio_filepath is missing"),
        ({"audio_filepath": "clip.mp3", "duration": "long"}, "duration is 'long'"),
        ({"audio_filepath": "clip.mp3", "duration": -1}, "duration is -1"),
        ('{"audio_filepath": "clip.mp3", "duration": NaN}', "duration is nan"),
        ({"audio_filepath": "clip.mp3", "text": 5}, "text is 5"),
        ({"audio_filepath": "clip.mp3", "offset": 2.0}, "offset is not supported"),
        ({"audio_filepath": "clip.mp3", "expect_failure": "yes"}, "expect_failure is 'yes'"),
    ],
)
def test_a_bad_line_is_refused_by_file_and_number(
    tmp_path: Path, clip: Path, line: str | dict[str, Any], complaint: str
) -> None:
    path = write(tmp_path, {"audio_filepath": clip.name}, "", line)
    with pytest.raises(UsageError) as caught:
        read_manifest(path)
    assert f"{path}, line 3: " in str(caught.value)
    assert complaint in str(caught.value)


def test_a_manifest_that_is_missing_empty_or_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    for name in ("absent.jsonl", "empty.jsonl", "binary.jsonl", "."):
        with pytest.raises(UsageError) as caught:
            read_manifest(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_zero_length_is_a_length(tmp_path: Path) -> None:
    (tmp_path / "zero.wav").write_bytes(encode(tone(0.0), "wav", 16000, 1, None))
    (item,) = read_manifest(write(tmp_path, {"audio_filepath": "zero.wav", "duration": 0})).items
    assert (item.duration_s, item.bucket) == (0.0, "00-01s")


@pytest.fixture
def five(tmp_path: Path) -> Path:
    names = [f"{number}.wav" for number in range(5)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(encode(tone(0.3 + number / 10), "wav", 8000, 1, None))
    return write(tmp_path, *({"audio_filepath": name} for name in names))


def test_content_hash_follows_the_content_not_the_place(tmp_path: Path, five: Path) -> None:
    before = read_manifest(five).content_hash
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in [*tmp_path.glob("*.wav"), five]:
        (elsewhere / path.name).write_bytes(path.read_bytes())
    assert read_manifest(elsewhere / five.name).content_hash == before
    (tmp_path / "3.wav").write_bytes((tmp_path / "2.wav").read_bytes())
    assert read_manifest(five).content_hash != before


def test_items_takes_the_first_or_a_seeded_choice(tmp_path: Path, five: Path) -> None:
    def load(items: int | None = None, seed: int | None = None) -> AudioSet:
        return load_audio_set(None, five, tmp_path, tmp_path / "cache", items, seed)

    everything = load()
    assert load(items=2).items == everything.items[:2]
    chosen = load(items=3, seed=1)
    assert chosen == load(items=3, seed=1)
    assert set(chosen.items) < set(everything.items)
    assert len({load(items=3, seed=seed).content_hash for seed in range(8)}) > 1
    with pytest.raises(UsageError, match="has 5 recordings"):
        load(items=6)
