"""Which rows of a batch are encoded in one call, on a CPU, where padding costs as much as speech.

A decoder gains from every row that it steps at once, and pays little for the padding of states; an encoder
gains there from fewer calls alone. So rows of unlike lengths are encoded apart, and decoded together.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.protocols import EncoderOutput

CPU_CALL_FRAMES = 180
"""What a call costs beside its rows, in frames of 10 ms. The tiny Parakeet's encoder took 9 ms of a core
a call and 4.9 ms a second of audio, padding included (voice_agent, batches of 1 and 8)."""


def groups(lengths: Sequence[int], call_frames: int) -> list[slice]:
    """Ascending ``lengths`` in consecutive groups with the least of frames, padding and calls included."""
    least, starts = [0], []
    for end, longest in enumerate(lengths, start=1):
        costs = [least[start] + call_frames + (end - start) * longest for start in range(end)]
        least.append(min(costs))
        starts.append(costs.index(least[-1]))
    found, end = [], len(lengths)
    while end:
        found.append(slice(starts[end - 1], end))
        end = starts[end - 1]
    return found[::-1]


def joined(outputs: Sequence[EncoderOutput]) -> EncoderOutput:
    """The rows of all, ``[B, T', D]``, zero beyond what each had."""
    import torch

    if len(outputs) == 1:
        return outputs[0]
    first = outputs[0].values
    rows, longest = sum(len(each.values) for each in outputs), max(each.values.shape[1] for each in outputs)
    values = first.new_zeros((rows, longest, first.shape[2]))
    start = 0
    for each in outputs:
        values[start : start + len(each.values), : each.values.shape[1]] = each.values
        start += len(each.values)
    return EncoderOutput(values, torch.cat([each.lengths for each in outputs]))
