"""An encoder whose shapes were all prepared ahead: pad to the nearest, run, cut off the padding.

What a prepared shape runs is a ``Call``: a replayed CUDA graph or a TensorRT context. This module places
batches, moves them through static buffers and counts; it knows neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import torch

from harness.protocols import BuildProgress, EncoderOutput, FeatureBatch, silent
from variants.decoder.cpu_synced import CpuSyncedDecoder
from variants.encoder.eager import EagerEncoder
from variants.encoder.parity import LIMITS, Agreement, States, require, require_labels
from variants.encoder.probes import speech_probe
from variants.encoder.shapes import ShapeGrid, Slot, output_frames

if TYPE_CHECKING:
    from harness.protocols import Evidence, Hypothesis
    from variants.encoder.planner import Profile
    from variants.models.types import TdtModel

_ENOUGH_LABELS = 50  # at which one label is 2 %, against a limit of half
_MOST_UTTERANCES = 32


class Call(Protocol):
    """One prepared shape. ``run`` reads the static inputs and leaves its results in these."""

    @property
    def states(self) -> torch.Tensor:
        """``[B, T', D]``, valid until the next ``run``."""
        ...

    @property
    def lengths(self) -> torch.Tensor:
        """Valid encoder frames ``[B]``."""
        ...

    def run(self) -> None: ...


class StaticInputs:
    """Input buffers at fixed addresses, one arena for all shapes: float32 ``[B, F, T]``, lengths ``[B]``.

    Host memory is pinned for a GPU, so that the copy is one transfer that does not stop the host.
    """

    def __init__(
        self, grid: ShapeGrid, bins: int, device: torch.device, lengths_type: torch.dtype = torch.int64
    ) -> None:
        numbers = bins * max(slot.batch * slot.frames for slot in grid.slots())
        rows, pinned = grid.batches[-1], device.type == "cuda"
        self._bins = bins
        self._host = torch.zeros(numbers, dtype=torch.float32, pin_memory=pinned)
        self._host_lengths = torch.zeros(rows, dtype=lengths_type, pin_memory=pinned)
        self._features = torch.zeros(numbers, dtype=torch.float32, device=device)
        self._lengths = torch.zeros(rows, dtype=lengths_type, device=device)
        self._copied: Any = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]

    @property
    def device_bytes(self) -> int:
        return self._features.nbytes + self._lengths.nbytes

    def views(self, slot: Slot) -> tuple[torch.Tensor, torch.Tensor]:
        """The device buffers as ``slot`` sees them."""
        return self._shape(self._features, slot), self._lengths[: slot.batch]

    def load(self, batch: FeatureBatch, rows: slice, slot: Slot) -> None:
        """Copy ``rows`` of ``batch`` in; excess frames become zero, and excess rows have length 0."""
        if self._copied is not None:
            self._copied.synchronize()  # the last transfer may still read the host's buffers
        values = batch.values[rows]
        features, device_lengths = self.views(slot)
        if isinstance(values, torch.Tensor):
            _fill(features, values)
        else:
            host = self._shape(self._host, slot)
            _fill(host, torch.from_numpy(values))
            features.copy_(host, non_blocking=True)
        lengths = self._host_lengths.numpy()
        count = len(values)
        lengths[:count] = batch.lengths[rows]
        lengths[count : slot.batch] = 0
        device_lengths.copy_(self._host_lengths[: slot.batch], non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def _shape(self, flat: torch.Tensor, slot: Slot) -> torch.Tensor:
        numbers = slot.batch * self._bins * slot.frames
        return flat[:numbers].view(slot.batch, self._bins, slot.frames)


def _fill(target: torch.Tensor, values: torch.Tensor) -> None:
    """``values`` ``[b, F, t]`` into ``target`` ``[B, F, T]``, which is zero beyond them."""
    count, _, frames = values.shape
    target[:count, :, :frames] = values
    target[:count, :, frames:] = 0.0
    target[count:] = 0.0


class BucketedEncoder:
    """``harness.protocols.Encoder`` over prepared calls.

    A batch of more rows than the largest shape is split. A segment longer than every shape runs eagerly,
    and the evidence says that the variant did not engage.
    """

    def __init__(
        self,
        model: TdtModel,
        grid: ShapeGrid,
        inputs: StaticInputs,
        call_for: Callable[[Slot], Call],
        describe: Callable[[], Mapping[str, Any]],
        precision: str | None = None,
    ) -> None:
        """``describe`` says how the calls were made: evidence, ``captures_after_build`` among it.
        ``precision`` is theirs where it is not the model's: they are held to its ``LIMITS``."""
        self._model, self._grid, self._inputs, self._call_for = model, grid, inputs, call_for
        self._describe = describe
        self._eager = EagerEncoder(model)
        encoder: Any = model.encoder
        self._width, self._factor = int(encoder.d_model), int(encoder.subsampling_factor)
        self._precision = precision or str(model.dtype).removeprefix("torch.")
        self._runs: Counter[Slot] = Counter()
        self._splits = 0
        self._outside: Counter[int] = Counter()
        self._valid_frames = self._padded_frames = 0
        self._last_profile: int | None = None
        self._switches = 0
        self._parity: dict[Slot, Agreement] = {}
        self._labels: dict[int, tuple[float, int]] = {}

    @torch.inference_mode()
    def encode(self, batch: FeatureBatch) -> EncoderOutput:
        """``[B, F, T]`` on the host to ``[B, T', D]`` on the device, in memory of its own."""
        rows, _, frames = batch.values.shape
        if rows == 0 or frames == 0:
            return self._eager.encode(batch)
        if frames > self._grid.longest:
            self._outside[frames] += 1
            return self._eager.encode(batch)
        pieces = [self._encode_piece(batch, piece, frames) for piece in self._grid.pieces(rows)]
        if len(pieces) == 1:
            return pieces[0]
        self._splits += 1
        return EncoderOutput(
            torch.cat([piece.values for piece in pieces]), torch.cat([piece.lengths for piece in pieces])
        )

    def _encode_piece(self, batch: FeatureBatch, rows: slice, frames: int) -> EncoderOutput:
        count = rows.stop - rows.start
        slot = self._grid.slot(count, frames)
        if slot is None:
            raise RuntimeError(f"no prepared shape for {count} x {frames}: the grid split the batch wrongly")
        self._count(slot, int(batch.lengths[rows].sum()))
        self._inputs.load(batch, rows, slot)
        call = self._call_for(slot)
        call.run()
        states = call.states[:count, : output_frames(frames, self._factor)]
        # Static outputs are overwritten by the next run of this shape; what leaves here is not.
        return EncoderOutput(
            states.clone(memory_format=torch.contiguous_format),
            call.lengths[:count].to(torch.int64, copy=True),
        )

    def _count(self, slot: Slot, valid_frames: int) -> None:
        self._runs[slot] += 1
        self._valid_frames += valid_frames
        self._padded_frames += slot.batch * slot.frames
        self._switches += self._last_profile not in (None, slot.profile)
        self._last_profile = slot.profile

    def verify(self, name: str, token_agreement: float = 0.0, progress: BuildProgress = silent) -> None:
        """Hold every prepared shape to the eager encoder, at its full length and padded. Speech of each
        profile is also decoded: at least ``token_agreement`` of its labels have to agree.

        Raises ``InvalidMeasurementError`` naming the bucket. Leaves the counts as if it had not been.
        """
        slots = self._grid.slots()
        for index, slot in enumerate(slots):
            progress("comparing each shape with the eager encoder", index, len(slots))
            profile, what = self._grid.profiles[slot.profile], f"encoder={name}: {self._bucket(slot)}"
            for longest in sorted({profile.max, max(_shortest(profile), profile.max - 5)}):
                self._hold(slot, self._speech(slot, longest, seed=slot.frames), what)
            if token_agreement > 0.0 and slot.batch == self._grid.batches[0]:
                self._hold_labels(slot, token_agreement, what)
        self._forget()

    def _speech(self, slot: Slot, longest: int, seed: int) -> FeatureBatch:
        shortest = _shortest(self._grid.profiles[slot.profile])
        return speech_probe(slot.batch, shortest, longest, self._model.feature_bins, seed)

    def _hold(self, slot: Slot, batch: FeatureBatch, what: str) -> None:
        found, expected = self.encode(batch), self._eager.encode(batch)
        agreement = require(on_host(expected), on_host(found), LIMITS[self._precision], what)
        self._parity[slot] = _worse(self._parity.get(slot, agreement), agreement)

    def _hold_labels(self, slot: Slot, least: float, what: str) -> None:
        """Utterances until the eager encoder's states gave enough labels for a share of them to mean
        something: a command has three, and one that parts from its tie would be a third."""
        decode = CpuSyncedDecoder(self._model).decode
        longest = self._grid.profiles[slot.profile].max
        expected: list[Hypothesis] = []
        found: list[Hypothesis] = []
        for seed in range(_MOST_UTTERANCES):
            batch = self._speech(slot, longest, seed)
            expected += decode(self._eager.encode(batch)).hypotheses
            found += decode(self.encode(batch)).hypotheses
            if _count_labels(expected) >= _ENOUGH_LABELS:
                break
        agreed = require_labels(expected, found, least, what)
        self._labels[slot.profile] = (agreed, _count_labels(expected))

    def _bucket(self, slot: Slot) -> str:
        profile, hop_s = self._grid.profiles[slot.profile], self._model.hop_s
        lengths = f"{profile.min * hop_s:.2f} to {profile.max * hop_s:.2f} s"
        return f"bucket {slot.profile} (batch {slot.batch}, {lengths}, {self._precision})"

    def _forget(self) -> None:
        self._runs.clear()
        self._outside.clear()
        self._splits = self._valid_frames = self._padded_frames = self._switches = 0
        self._last_profile = None

    def evidence(self) -> Evidence:
        described = self._describe()
        profiles = Counter(dict.fromkeys(range(len(self._grid.profiles)), 0))
        for slot, count in self._runs.items():
            profiles[slot.profile] += count
        return {
            **described,
            "calls": sum(self._runs.values()) + sum(self._outside.values()),
            "replays": sum(self._runs.values()),
            "shapes": {str(slot): self._runs[slot] for slot in self._known_slots()},
            "profiles": [asdict(profile) for profile in self._grid.profiles],
            "runs_by_profile": {str(index): count for index, count in sorted(profiles.items())},
            "profile_switches": self._switches,
            "split_batches": self._splits,
            "outside": sum(self._outside.values()),
            "padding_share": 1.0 - self._valid_frames / self._padded_frames if self._padded_frames else 0.0,
            "parity": {str(slot): asdict(agreement) for slot, agreement in self._parity.items()},
            "label_agreement_by_profile": {str(i): share for i, (share, _) in sorted(self._labels.items())},
            "labels_compared_by_profile": {str(i): count for i, (_, count) in sorted(self._labels.items())},
            "device": str(self._model.device),
            "dtype": self._precision,
            "not_engaged": self._not_engaged(int(described["captures_after_build"])),
        }

    def _known_slots(self) -> list[Slot]:
        """Prepared shapes, and those that ran unpadded, small ones first."""
        known = {*(self._grid.slots() if self._grid.pad else ()), *self._runs}
        return sorted(known, key=lambda slot: (slot.batch * slot.frames, slot.batch))

    def _not_engaged(self, captures_after_build: int) -> str | None:
        if captures_after_build:
            return f"{captures_after_build} shapes were captured after the build, inside measured time"
        if not self._outside:
            return None
        prepared_s, longest_s = (n * self._model.hop_s for n in (self._grid.longest, max(self._outside)))
        return (
            f"{sum(self._outside.values())} batches were longer than every prepared shape "
            f"({prepared_s:.2f} s) and ran eagerly, the longest {longest_s:.2f} s: "
            "raise encoder.options.longest_s, or lower frontend.segment.max_segment_s"
        )


def _shortest(profile: Profile) -> int:
    """Feature frames of the shortest row that a profile is tried with."""
    return max(1, profile.min, profile.max // 4)


def _count_labels(hypotheses: Sequence[Hypothesis]) -> int:
    return sum(len(hypothesis.tokens) for hypothesis in hypotheses)


def on_host(output: EncoderOutput) -> States:
    """For ``parity``; waits for the device."""
    return States(output.values.float().cpu().numpy(), output.lengths.cpu().numpy())


def _worse(a: Agreement, b: Agreement) -> Agreement:
    return Agreement(
        a.lengths_equal and b.lengths_equal, min(a.cosine, b.cosine), max(a.relative, b.relative)
    )
