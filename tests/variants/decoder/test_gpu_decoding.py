"""What the GPU decoders decide on the host: options, sizes, and the log that kernels write."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import UnavailableError
from harness.protocols import Hypothesis, ShapePlan
from tests.variants.models.small import small_model
from variants.decoder import conditional_graph, megakernel
from variants.decoder.gpu.decoding import hypotheses
from variants.decoder.gpu.shape import KernelShape
from variants.decoder.options import ConditionalGraph, Megakernel

PARAKEET = KernelShape(
    hidden=640,
    layers=2,
    joint=640,
    vocabulary=8193,
    durations=(0, 1, 2, 3, 4),
    max_symbols=10,
    slots=128,
    columns=128,
    warps=8,
    joint_tiles=4,
    bfloat16=False,
)
H100_BLOCKS, H100_SHARED_BYTES = 132, 232_448


def word(utterance: int, token: int, frame: int, duration: int) -> int:
    return utterance << 48 | token << 32 | frame << 8 | duration


def test_log_is_sorted_by_utterance_and_stays_in_order_within_one() -> None:
    log = np.array([word(2, 7, 0, 1), word(0, 8191, 0, 0), word(2, 5, 1, 4), word(0, 3, 70_000, 2)])
    assert hypotheses(log, 3) == [
        Hypothesis((8191, 3), (0, 70_000), (0, 2)),
        Hypothesis(()),
        Hypothesis((7, 5), (0, 1), (1, 4)),
    ]


def test_an_empty_log_is_empty_hypotheses() -> None:
    assert hypotheses(np.array([], dtype=np.int64), 1) == [Hypothesis(())]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(
    ("build", "options"), [(conditional_graph.build, ConditionalGraph()), (megakernel.build, Megakernel())]
)
def test_without_a_gpu_the_decoder_says_so(build: Any, options: Any) -> None:
    with pytest.raises(UnavailableError, match="needs an NVIDIA GPU"):
        build(small_model(), options, ShapePlan((), 1))


def test_parakeet_fits_into_an_h100() -> None:
    layout = megakernel.plan_layout(PARAKEET, H100_BLOCKS)
    megakernel.check_capacity(PARAKEET, layout, H100_SHARED_BYTES, "H100")


def test_lstm_and_projection_share_blocks_only_where_there_are_too_few() -> None:
    apart = megakernel.plan_layout(PARAKEET, H100_BLOCKS)
    together = megakernel.plan_layout(PARAKEET, 114)  # the PCIe board
    assert apart.prediction_offset == 0
    assert together.prediction_offset == 3 * 2 * 16 * 640 * 2  # after three matrices of two tiles


@pytest.mark.parametrize(
    ("blocks", "shared_bytes", "lack"),
    [(60, H100_SHARED_BYTES, "80 multiprocessors"), (H100_BLOCKS, 101_376, "bytes of shared memory")],
)
def test_a_small_gpu_is_named_with_what_it_lacks(blocks: int, shared_bytes: int, lack: str) -> None:
    layout = megakernel.plan_layout(PARAKEET, blocks)
    with pytest.raises(UnavailableError, match=rf"{lack}.*use decoder=conditional_graph"):
        megakernel.check_capacity(PARAKEET, layout, shared_bytes, "a small GPU")
