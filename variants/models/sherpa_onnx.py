"""sherpa-onnx as a peer: its offline recognizer on the CPU, with its own features, ONNX Runtime and greedy
search (at most five tokens a frame, where NeMo's takes ten)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UsageError
from variants.models.onnx_layouts import OnnxPeerOptions, onnx_model
from variants.models.options import ModelOptions
from variants.models.peers import Heard, SegmentPeer, check, check_host, process_threads, versions
from variants.models.types import SAMPLE_RATE
from variants.onnx_sessions import forbid_telemetry

Options = OnnxPeerOptions


def preload() -> None:
    forbid_telemetry()  # it brings an ONNX Runtime of its own
    import sherpa_onnx  # noqa: F401


def build(options: ModelOptions) -> SegmentPeer:
    """Of embedded weights or a ``.nemo`` file, exported, or of a folder of a transducer of NeMo's in
    sherpa-onnx's layout. Raises ``UsageError`` naming the file or key."""
    check(options)
    check_host(options)
    exported = onnx_model(options, "sherpa_onnx")
    threads = process_threads()
    options.progress(f"loading {exported.provenance['weights']}")
    provenance = {
        **exported.provenance,
        "device": "cpu",
        "threads": threads,
        "packages": versions("sherpa-onnx"),
    }
    return SegmentPeer(options.name, SherpaEngine(_recognizer(exported.folder, threads)), provenance)


def _recognizer(folder: Path, threads: int) -> Any:
    files = {part: _file(folder, f"{part}*.onnx") for part in ("encoder", "decoder", "joiner")}
    preload()
    from sherpa_onnx import OfflineRecognizer

    return OfflineRecognizer.from_transducer(
        **files,
        tokens=_file(folder, "tokens.txt"),
        num_threads=threads,
        sample_rate=SAMPLE_RATE,
        decoding_method="greedy_search",
        model_type="nemo_transducer",
    )


def _file(folder: Path, pattern: str) -> str:
    """The package ends the process where a file is missing: found before."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise UsageError(f"model.weights={folder}: sherpa_onnx needs one {pattern} in it, not {len(found)}")
    return str(found[0])


@dataclass(frozen=True)
class SherpaEngine:
    """See ``variants.models.peers.SegmentEngine``."""

    recognizer: Any

    def hear(self, samples: Sequence[np.ndarray]) -> list[Heard]:
        streams = [self.recognizer.create_stream() for _ in samples]
        for stream, clip in zip(streams, samples, strict=True):
            stream.accept_waveform(SAMPLE_RATE, clip)
        self.recognizer.decode_streams(streams)
        return [Heard(stream.result.text) for stream in streams]
