from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch

from harness.errors import UsageError
from tests.variants.encoder.parts import ARCHITECTURE, small_model
from variants.encoder import compiled
from variants.encoder.fused import FusedConformer, require_whole
from variants.encoder.shapes import output_frames
from variants.encoder.subsampling import subsample, subsampling_weights

LONGEST = 400


@pytest.fixture(scope="module")
def nemo() -> Any:
    """NeMo's encoder with weights and statistics that leave no term out."""
    return stirred(small_model().encoder)


def stirred(encoder: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    for parameter in encoder.parameters():
        parameter.data.normal_(0.0, 0.2, generator=generator)
    for each in encoder.layers:
        each.conv.batch_norm.running_mean.normal_(generator=generator)
        each.conv.batch_norm.running_var.uniform_(0.5, 2.0, generator=generator)
    return encoder


def fused(encoder: Any, **options: Any) -> FusedConformer:
    longest = output_frames(LONGEST, ARCHITECTURE.subsampling_factor)
    return FusedConformer(encoder, longest, **{"compile": lambda function: function, **options})


def agrees(encoder: Any, ours: FusedConformer, frames: int, rows: int = 3) -> None:
    """On valid frames: what lies behind them is nobody's business."""
    features = torch.randn(rows, ARCHITECTURE.feature_bins, frames)
    lengths = torch.linspace(frames, max(1, frames // 3), rows).long()
    with torch.inference_mode():
        expected, expected_lengths = encoder.forward_internal(features, lengths)
        found, found_lengths = ours(features, lengths)
    assert torch.equal(found_lengths, expected_lengths)
    assert found.shape == expected.transpose(1, 2).shape
    for row, valid in enumerate(expected_lengths.tolist()):
        torch.testing.assert_close(found[row, :valid], expected[row, :, :valid].T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 8, 9, 97, 200, LONGEST])
@pytest.mark.parametrize("rows", [1, 3])
def test_every_valid_frame_is_nemos(nemo: Any, frames: int, rows: int) -> None:
    agrees(nemo, fused(nemo), frames, rows)


@pytest.mark.parametrize("frames", [1, 8, 9, 97, LONGEST])
def test_subsampling_with_the_channels_innermost_is_nemos(nemo: Any, frames: int) -> None:
    ours = partial(subsample, weights=subsampling_weights(nemo.pre_encode))
    agrees(nemo, fused(nemo, subsample=ours), frames)


def test_a_batch_that_nemo_would_cut_is_refused_before_anything_is_compiled(nemo: Any) -> None:
    size = ARCHITECTURE
    most = 2**31 // (size.feature_bins * size.subsampling_channels) * 4
    require_whole(nemo, 1, most)
    with pytest.raises(UsageError, match=r"lower model\.max_batch"):
        require_whole(nemo, 2, most)


def test_another_subsampling_is_refused(nemo: Any) -> None:
    other = copy.copy(nemo.pre_encode)
    other._subsampling = "striding"
    with pytest.raises(UsageError, match="subsampling=striding"):
        subsampling_weights(other)


def test_biases_and_a_scaled_input_are_kept() -> None:
    from nemo.collections.asr.modules import ConformerEncoder

    size = ARCHITECTURE
    encoder = ConformerEncoder(
        feat_in=size.feature_bins,
        n_layers=size.layers,
        d_model=size.d_model,
        n_heads=size.heads,
        subsampling="dw_striding",
        subsampling_factor=size.subsampling_factor,
        subsampling_conv_channels=size.subsampling_channels,
        conv_kernel_size=size.conv_kernel,
        self_attention_model="rel_pos",
        use_bias=True,
        xscaling=True,
    ).eval()
    agrees(encoder, fused(stirred(encoder)), 97)


def test_what_another_row_hears_is_not_heard(nemo: Any) -> None:
    """Nor what lies behind the end of an utterance."""
    ours, features = fused(nemo), torch.randn(2, ARCHITECTURE.feature_bins, 160)
    lengths = torch.tensor([80, 160])
    with torch.inference_mode():
        before = ours(features, lengths)[0][0, :10]
        features[0, :, 80:] = 100.0
        features[1] = -100.0
        assert torch.equal(ours(features, lengths)[0][0, :10], before)


def test_a_row_of_nothing_stays_finite(nemo: Any) -> None:
    with torch.inference_mode():
        states, lengths = fused(nemo)(torch.randn(2, ARCHITECTURE.feature_bins, 80), torch.tensor([80, 0]))
    assert lengths[1] == 0
    assert torch.isfinite(states).all()


def test_memory_holds_one_copy_of_the_weights(nemo: Any) -> None:
    ours = fused(nemo)
    weights, module = ours._layers[0], nemo.layers[0]
    assert module.self_attn.linear_k.weight.data_ptr() == weights.qkv[0][ARCHITECTURE.d_model :].data_ptr()
    assert module.feed_forward1.linear1.weight.data_ptr() == weights.ff1_in[0].data_ptr()
    assert module.conv.pointwise_conv1.weight.data_ptr() == weights.gate[0].data_ptr()
    assert 0 < ours.added_bytes < sum(p.nbytes for p in nemo.parameters())


@pytest.mark.parametrize("any_length", [False, True])
def test_dynamo_takes_it_whole(nemo: Any, any_length: bool) -> None:
    """One graph for all layers; with ``any_length`` also for all lengths."""
    graphs = 0

    def count(module: Any, _inputs: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return module.forward

    torch._dynamo.reset()
    compile = partial(torch.compile, backend=count, fullgraph=True, dynamic=None if any_length else False)
    ours = fused(nemo, compile=compile, any_length=any_length)
    lengths = (97, 200, LONGEST)
    with compiled.compilations(len(lengths)):
        for frames in lengths:
            agrees(nemo, ours, frames, rows=2)
    assert graphs == 2 * (1 if any_length else len(lengths))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"self_attention_model": "abs_pos"}, "self_attention_model=abs_pos"),
        ({"att_context_size": [10, 10]}, "att_context_size"),
        ({"reduction_position": 1}, "reduction"),
    ],
)
def test_another_kind_of_conformer_is_refused(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], named: str
) -> None:
    encoder: Any = small_model().encoder
    for name, value in change.items():
        monkeypatch.setattr(encoder, name, value)
    with pytest.raises(UsageError, match=rf"backend=fused.*{named}.*backend=graph"):
        fused(encoder)
