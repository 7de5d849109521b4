"""A timer: while there is traffic, what comes waits a little for company of its length.

Larger batches than those of ``continuous``, bought with the delay: it pays where the engine is much faster
with a full batch than with what happens to be there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from variants.batching.bounds import Bounds
from variants.batching.together import Together
from variants.batching.types import Inference


@dataclass(frozen=True)
class Options(Bounds):
    max_delay_ms: Annotated[float, Meta(ge=0)] = 5.0
    """How long a batch that is not full may wait for company, from its oldest work's arrival. An engine that
    has been free for so long does not wait."""


def build(inference: Inference, options: Options) -> Together:
    return Together("window", inference, options, options.max_delay_ms * 1e-3)
