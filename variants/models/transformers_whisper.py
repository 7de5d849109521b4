"""Hugging Face's transformers as a peer: ``WhisperForConditionalGeneration.generate``, greedy, with its own
features and by its own rules of timestamps."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import UsageError
from harness.protocols.children import teller
from variants.content_cache import user_cache
from variants.made_once import made_once
from variants.models.options import ModelOptions, resolve_device
from variants.models.peers import versions
from variants.models.weights import files_sha256
from variants.models.whisper.assemble import preload as preload_whisper
from variants.models.whisper.assemble import synchronizer
from variants.models.whisper.ctranslate2 import MODEL_FILE
from variants.models.whisper.features import SAMPLE_RATE
from variants.models.whisper.options import WhisperOptions
from variants.models.whisper.peers import Peer, Said, check, precision
from variants.models.whisper.rules import FIRST_TIMESTAMPS, GreedyRules, WhisperTokenizer

if TYPE_CHECKING:
    import torch

SCHEME = 1
"""Part of every key: raise it whenever what is converted changes."""


@dataclass(frozen=True, slots=True)
class Options(WhisperOptions):
    cache_dir: str | None = None
    """Of weights in Hugging Face's form that were given in another; null: the user's cache."""


def preload() -> None:
    preload_whisper()
    _ = transformers().WhisperFeatureExtractor, transformers().WhisperForConditionalGeneration


def transformers() -> Any:
    """The package, whose classes are imported where they are named."""
    import transformers

    return transformers


def build(options: ModelOptions) -> Peer:
    """A Hugging Face folder as it is; any other form of weights, converted into one.

    Raises ``UsageError`` naming the file or key.
    """
    from variants.models.whisper.hugging_face import read_size

    asked, device = check(options), resolve_device(options)
    if asked.language is None:
        raise UsageError("model.options.language=null: give transformers_whisper the language")
    folder, provenance = _folder(options)
    size = read_size(folder / "config.json")
    tokenizer = WhisperTokenizer(size, asked)
    options.progress(f"loading {provenance['weights']}")
    model = _loaded(folder, options).to(device).eval()
    engine = TransformersEngine(model, tokenizer.rules(size, asked), asked)
    more = {"precision": options.precision, "packages": versions("transformers", "torch")}
    return Peer(options.name, engine, tokenizer, asked, {**provenance, "device": str(device), **more})


def _folder(options: ModelOptions) -> tuple[Path, dict[str, Any]]:
    """Where Hugging Face's form of the weights is, and what identifies them."""
    path = Path(options.weights).expanduser()
    files = sorted(path.glob("*.safetensors"))
    digest = files_sha256(files or [_other_form(path)])
    folder = path if files else _converted(options, digest)
    return folder, {"weights": path.name, "weights_hash": digest}


def _other_form(path: Path) -> Path:
    """The file that holds CTranslate2's or openai-whisper's weights."""
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise UsageError(
            f"model.weights={path}: give transformers_whisper a folder of Hugging Face's with safetensors, "
            f"one of CTranslate2's with {MODEL_FILE}, or openai-whisper's .pt file"
        )
    return file


def _converted(options: ModelOptions, digest: str) -> Path:
    chosen: Options = options.options
    options.progress("converting to Hugging Face's form")
    return made_once(
        Path(chosen.cache_dir) if chosen.cache_dir else user_cache("hugging_face"),
        [SCHEME, digest, versions("transformers", "torch")],
        "variants.models.transformers_whisper:main",
        lambda folder: Job(options.weights, folder),
        options.progress,
    )


@dataclass(frozen=True, slots=True)
class Job:
    weights: str
    folder: Path


def main(job: Job, control: Connection) -> int:
    """The converting process: fill ``job.folder`` and say so."""
    from variants.models.whisper.checkpoint import load_weights
    from variants.models.whisper.hugging_face import write_hugging_face

    write_hugging_face(load_weights(job.weights, teller(control)), job.folder)
    control.send("converted")
    return 0


def _loaded(folder: Path, options: ModelOptions) -> Any:
    import torch

    transformers().logging.set_verbosity_error()  # else it advises, at every call, how generate is called
    model, dtype = transformers().WhisperForConditionalGeneration, getattr(torch, precision(options))
    try:
        return model.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"model.weights={folder}: transformers cannot load it ({error})") from error


@dataclass
class TransformersEngine:
    """See ``variants.models.whisper.peers.WindowEngine``."""

    model: Any
    rules: GreedyRules
    asked: WhisperOptions

    def __post_init__(self) -> None:
        bins = self.model.config.num_mel_bins
        self._extract = transformers().WhisperFeatureExtractor(feature_size=bins)
        self._synchronize = synchronizer(self.model.device)
        self._how = {
            "generation_config": self._generation(),
            "return_timestamps": self.asked.timestamps,
            "return_dict_in_generate": True,
            "force_unique_generate_call": True,
            "prompt_ids": self._prompt(),
        }

    def _generation(self) -> Any:
        """The vocabulary and the limits that every peer has, as transformers names them."""
        rules = self.rules
        return transformers().GenerationConfig(
            decoder_start_token_id=rules.start[0],
            bos_token_id=rules.end,
            eos_token_id=rules.end,
            pad_token_id=rules.end,
            no_timestamps_token_id=rules.timestamp_begin - 1,
            max_initial_timestamp_index=FIRST_TIMESTAMPS,
            suppress_tokens=list(rules.suppressed),
            begin_suppress_tokens=list(rules.suppressed_first),
            max_new_tokens=rules.room(len(rules.prompt(rules.before))),
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
            **self._language(),
        )

    def _language(self) -> dict[str, Any]:
        """A model that knows English alone is told neither language nor task."""
        _begin, *told = (token for token in self.rules.start if token != self.rules.timestamp_begin - 1)
        if not told:
            return {"is_multilingual": False}
        language, task = told
        return {
            "is_multilingual": True,
            "language": self.asked.language,
            "task": self.asked.task,
            "lang_to_id": {f"<|{self.asked.language}|>": language},
            "task_to_id": {self.asked.task: task},
        }

    def _prompt(self) -> torch.Tensor | None:
        import torch

        rules = self.rules
        before = (rules.previous, *rules.before)
        return torch.tensor(before, device=self.model.device) if rules.before else None

    def features(self, samples: np.ndarray) -> torch.Tensor:
        found = self._extract(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        mel: torch.Tensor = found.to(self.model.device, self.model.dtype)  # [1, F, T]
        self._synchronize()
        return mel

    def encode(self, features: torch.Tensor) -> Any:
        import torch

        with torch.inference_mode():
            states = self.model.get_encoder()(features)
        self._synchronize()
        return states

    def decode(self, states: Any) -> Said:
        import torch

        found = self.model.generate(encoder_outputs=states, **self._how)
        chosen = found.sequences[0, -len(found.scores) :]  # [steps]
        likely = torch.cat(found.scores).float().log_softmax(-1).gather(1, chosen[:, None]).sum()
        tokens = tuple(token for token in chosen.tolist() if token != self.rules.end)
        return Said(tokens, self._no_speech(states, found.logits[0][0]), float(likely) / (len(tokens) + 1))

    def _no_speech(self, states: Any, first: torch.Tensor) -> float:
        """Its probability where the transcript begins: by the logits of the ``first`` step after a prompt of
        that alone, else by those of a step of its own."""
        import torch

        if len(self.rules.prompt(self.rules.before)) > 1:
            begin = torch.tensor([self.rules.start[:1]], device=self.model.device)
            with torch.inference_mode():
                first = self.model(encoder_outputs=states, decoder_input_ids=begin).logits[0, 0]
        return float(torch.softmax(first.float(), -1)[self.rules.no_speech])
