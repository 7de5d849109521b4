"""No timer: whenever the engine is free it takes what is there, batched by length, oldest first.

An engine that keeps up serves each work as it comes; one that does not finds more to put together each
time it is free, which is what makes it keep up.
"""

from __future__ import annotations

from dataclasses import dataclass

from variants.batching.bounds import Bounds
from variants.batching.together import Together
from variants.batching.types import Inference


@dataclass(frozen=True)
class Options(Bounds):
    """Those of every batch."""


def build(inference: Inference, options: Options) -> Together:
    return Together("continuous", inference, options)
