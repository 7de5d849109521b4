"""A Whisper in CTranslate2's folder, read with NumPy: ``model.bin`` holds every variable by name.

The file, little-endian (``ctranslate2.specs.model_spec``): version, name of the specification, revision,
number of variables; each variable's name, rank, dimensions, number type, bytes; then pairs of aliases. Texts
are preceded by their length and ended by a zero. Matrices may be int8 or int16 with a scale beside them by
which they were multiplied. Projections that read the same input lie in one matrix.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from harness.errors import UsageError
from variants.models.whisper.architecture import WhisperArchitecture

if TYPE_CHECKING:
    import torch

MODEL_FILE = "model.bin"
_VERSIONS = (5, 6)
_TYPES = ("<f4", "<i1", "<i2", "<i4", "<f2", "<u2")  # the last is bfloat16, the upper half of a float32
_BFLOAT16 = 5
_MAX_RANK = 4

Variables = dict[str, np.ndarray]


def read_ctranslate2(folder: Path) -> tuple[WhisperArchitecture, dict[str, torch.Tensor]]:
    """Sizes, and float32 weights under openai-whisper's names. Raises ``UsageError`` naming the file."""
    import torch

    path = folder / MODEL_FILE
    with _named(path):
        variables = _read(path)
        size = _size(variables)
        state = {name: torch.from_numpy(value) for name, value in _renamed(variables, size)}
    if variables.get("decoder/projection/weight") is not variables["decoder/embeddings/weight"]:
        raise UsageError(f"model.weights={path}: its output matrix is not its embedding, as a Whisper's is")
    return size, state


def read_size(folder: Path) -> WhisperArchitecture:
    """Sizes alone. Raises ``UsageError`` naming the file."""
    path = folder / MODEL_FILE
    with _named(path):
        return _size(_stored(path)[0])


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file is wrong with ``path``."""
    try:
        yield
    except (KeyError, ValueError, struct.error, UnicodeDecodeError) as error:
        raise UsageError(
            f"model.weights={path}: not a Whisper of CTranslate2, or cut short ({error}); convert it again "
            "with ct2-transformers-converter"
        ) from error


# ---------------------------------------------------------------- the file


def _read(path: Path) -> Variables:
    """Every variable as float32, scales applied; one that stands for another is that one."""
    stored, aliases = _stored(path)
    variables = {key: _scaled(key, value, stored) for key, value in stored.items()}
    return variables | {alias: variables[name] for alias, name in aliases}


def _stored(path: Path) -> tuple[Variables, list[tuple[str, str]]]:
    """Variables as they are in the file, and which names stand for others."""
    with path.open("rb") as file:
        (version,) = _unpack(file, "<I")
        name, (_revision, count) = _text(file), _unpack(file, "<II")
        if version not in _VERSIONS or name != "WhisperSpec":
            raise ValueError(f"version {version}, {name!r}; read are versions 5 and 6 of WhisperSpec")
        stored = dict(_variable(file) for _ in range(count))
        (count,) = _unpack(file, "<I")
        return stored, [(_text(file), _text(file)) for _ in range(count)]


def _unpack(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _text(file: BinaryIO) -> str:
    (length,) = _unpack(file, "<H")
    return file.read(length).rstrip(b"\0").decode()


def _variable(file: BinaryIO) -> tuple[str, np.ndarray]:
    name = _text(file)
    (rank,) = _unpack(file, "<B")
    if rank > _MAX_RANK:
        raise ValueError(f"{name} has {rank} dimensions")
    shape = _unpack(file, f"<{rank}I")
    kind, size = _unpack(file, "<BI")
    if kind >= len(_TYPES):
        raise ValueError(f"{name} is of unknown type {kind}")
    values = np.frombuffer(file.read(size), _TYPES[kind])
    if kind == _BFLOAT16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return name, values.reshape(shape)


def _scaled(name: str, value: np.ndarray, variables: Variables) -> np.ndarray:
    """float32, divided by the scale of the whole (int16) or of its row (int8)."""
    scale = variables.get(f"{name}_scale")
    plain = value.astype(np.float32)
    if scale is None:
        return plain
    return plain / scale.reshape(-1, *(1,) * (plain.ndim - 1)) if scale.ndim else plain / scale


# ---------------------------------------------------------------- names


def _size(variables: Variables) -> WhisperArchitecture:
    """Sizes are the shapes' own; the number of heads is a variable."""
    width, bins, _ = variables["encoder/conv1/weight"].shape
    vocabulary, text_width = variables["decoder/embeddings/weight"].shape
    return WhisperArchitecture(
        n_mels=bins,
        n_audio_state=width,
        n_audio_head=int(variables["encoder/num_heads"]),
        n_audio_layer=_depth(variables, "encoder"),
        n_vocab=vocabulary,
        n_text_state=text_width,
        n_text_head=int(variables["decoder/num_heads"]),
        n_text_layer=_depth(variables, "decoder"),
        n_audio_ctx=len(variables["encoder/position_encodings/encodings"]),
        n_text_ctx=len(variables["decoder/position_encodings/encodings"]),
    )


def _depth(variables: Variables, part: str) -> int:
    layers = {found[1] for name in variables if (found := re.match(rf"{part}/layer_(\d+)/", name))}
    return len(layers)


def _renamed(variables: Variables, size: WhisperArchitecture) -> Iterator[tuple[str, np.ndarray]]:
    yield "encoder.positional_embedding", variables["encoder/position_encodings/encodings"]
    yield "decoder.positional_embedding", variables["decoder/position_encodings/encodings"]
    yield "decoder.token_embedding.weight", variables["decoder/embeddings/weight"]
    for conv in ("conv1", "conv2"):
        for kind in ("weight", "bias"):
            yield f"encoder.{conv}.{kind}", variables[f"encoder/{conv}/{kind}"]
    yield from _norm(variables, "encoder/layer_norm", "encoder.ln_post")
    yield from _norm(variables, "decoder/layer_norm", "decoder.ln")
    for part, depth in (("encoder", size.n_audio_layer), ("decoder", size.n_text_layer)):
        for layer in range(depth):
            yield from _layer(variables, f"{part}/layer_{layer}", f"{part}.blocks.{layer}")


def _layer(variables: Variables, theirs: str, ours: str) -> Iterator[tuple[str, np.ndarray]]:
    yield from _norm(variables, f"{theirs}/self_attention/layer_norm", f"{ours}.attn_ln")
    yield from _split(
        variables, f"{theirs}/self_attention/linear_0", ours + ".attn", ("query", "key", "value")
    )
    yield from _linear(variables, f"{theirs}/self_attention/linear_1", f"{ours}.attn.out")
    if f"{theirs}/attention/linear_0/weight" in variables:
        yield from _norm(variables, f"{theirs}/attention/layer_norm", f"{ours}.cross_attn_ln")
        yield from _linear(variables, f"{theirs}/attention/linear_0", f"{ours}.cross_attn.query")
        yield from _split(variables, f"{theirs}/attention/linear_1", ours + ".cross_attn", ("key", "value"))
        yield from _linear(variables, f"{theirs}/attention/linear_2", f"{ours}.cross_attn.out")
    yield from _norm(variables, f"{theirs}/ffn/layer_norm", f"{ours}.mlp_ln")
    yield from _linear(variables, f"{theirs}/ffn/linear_0", f"{ours}.mlp.0")
    yield from _linear(variables, f"{theirs}/ffn/linear_1", f"{ours}.mlp.2")


def _norm(variables: Mapping[str, np.ndarray], theirs: str, ours: str) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{ours}.weight", variables[f"{theirs}/gamma"]
    yield f"{ours}.bias", variables[f"{theirs}/beta"]


def _linear(variables: Mapping[str, np.ndarray], theirs: str, ours: str) -> Iterator[tuple[str, np.ndarray]]:
    for kind in ("weight", "bias"):
        yield f"{ours}.{kind}", variables[f"{theirs}/{kind}"]


def _split(
    variables: Mapping[str, np.ndarray], theirs: str, ours: str, parts: tuple[str, ...]
) -> Iterator[tuple[str, np.ndarray]]:
    """One matrix of several projections. A Whisper's key has no bias: here it is zeros."""
    for kind in ("weight", "bias"):
        for part, value in zip(parts, np.split(variables[f"{theirs}/{kind}"], len(parts)), strict=True):
            if (part, kind) != ("key", "bias"):
                yield f"{ours}.{part}.{kind}", np.ascontiguousarray(value)
            elif value.any():
                raise ValueError(f"{theirs}: keys have a bias")
