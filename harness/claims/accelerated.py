"""Claims that need a GPU: told so on a machine without one."""

from __future__ import annotations

from functools import partial

from harness.claims.model import Bench, Claim, Finding, Test, Verdict
from harness.config.needs import Machine, missing

_RULE = "measured on a machine with the accelerator; nothing is inferred from one without"

CLAIMS = (
    Claim(
        1,
        "About 20 h of speech transcribed in under 10 s (Parakeet-TDT 0.6B v3)",
        "encoder=eager decoder=cpu_synced",
        "the best offline variant",
        _RULE,
    ),
    Claim(
        2,
        "Multi-profile TensorRT is several times faster on short inputs than one large padded profile",
        "encoder=single_profile",
        "encoder=multi_profile",
        _RULE,
    ),
    Claim(
        3,
        "Memory falls from about 6 GB to about 5 GB with profile-aware TensorRT",
        "encoder=compiled",
        "encoder=multi_profile",
        _RULE,
    ),
    Claim(
        4,
        "The decoder loop as one conditional CUDA graph: 2-3 times lower decoder latency",
        "decoder=cpu_synced",
        "decoder=conditional_graph",
        _RULE,
    ),
    Claim(
        9,
        "A whole model as one kernel (megakernel): 281 to 77 ms on a small LLM",
        "decoder=conditional_graph",
        "decoder=megakernel",
        _RULE,
    ),
)
_NEEDS = {
    1: ("gpu",),
    2: ("gpu", "package:tensorrt"),
    3: ("gpu", "package:tensorrt"),
    4: ("gpu",),
    9: ("gpu",),
}


def tests() -> dict[int, tuple[Claim, Test]]:
    return {claim.number: (claim, partial(_test, claim)) for claim in CLAIMS}


def _test(claim: Claim, _bench: Bench) -> Finding:
    lacking = missing(_NEEDS[claim.number], Machine())
    if lacking:
        measured = "; ".join(item.message for item in lacking)
    else:
        measured = (
            "not measured by this command: run both variants (`python -m harness -m variant=A,B`) and "
            "compare them with `python -m harness.compare`"
        )
    return Finding(claim, Verdict.CANNOT_RUN, measured)
