"""WebRTC's noise suppressor, as ``webrtc-noise-gain`` packages it (with its high-pass filter)."""

from __future__ import annotations

import numpy as np
from webrtc_noise_gain import AudioProcessor

from harness.audio.pcm import from_pcm16, to_pcm16
from harness.protocols import Audio

_FRAME = 160  # samples: 10 ms at 16 kHz, all it takes at once
_DELAY = 96  # samples: its 256-point transform overlaps the 160-sample frame by this much


def denoise(audio: Audio, *, level: int) -> Audio:
    """``audio`` (16 kHz mono) with steady noise suppressed: same length, same timing.

    ``level`` is 0 (the high-pass filter alone, which is not late) to 4. Each call starts a fresh noise
    estimate, which settles within the first half second. No gain control: features are normalized anyway.
    """
    processor = AudioProcessor(0, level)
    count = audio.samples.shape[-1]
    late = _DELAY if level else 0
    frame_count = -(-(count + late) // _FRAME)
    pcm = to_pcm16(np.pad(audio.samples, (0, frame_count * _FRAME - count)))
    frames = (pcm[start : start + 2 * _FRAME] for start in range(0, len(pcm), 2 * _FRAME))
    cleaned = b"".join([processor.Process10ms(frame).audio for frame in frames])
    return Audio(from_pcm16(cleaned)[late : late + count], audio.sample_rate, audio.warnings)
