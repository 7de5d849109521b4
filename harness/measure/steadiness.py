"""Whether what was measured was steady: a recording's first request against its later ones.

A part that pays for each shape it has not met (cuDNN plans, kernels compiled on demand) is slow on a
recording's first request and fast from then on. A median over both says nothing about either.
"""

from __future__ import annotations

import pandas as pd

from harness.measure.stats import nearest_rank

_WORTH_SAYING = 1.5
_LEAST_RECORDINGS = 8


def first_meeting_ratio(served: pd.DataFrame) -> float | None:
    """The median, over recordings, of first request over median later request; None without repeats.

    ``served`` has the columns ``process``, ``request_id`` and ``service_s``, in the order of serving.
    """
    ratios = [
        times.iloc[0] / nearest_rank(times.iloc[1:], 0.5)
        for _, times in served.groupby(["process", "request_id"], sort=False)["service_s"]
        if len(times) > 1
    ]
    return nearest_rank(ratios, 0.5) if len(ratios) >= _LEAST_RECORDINGS else None


def first_meeting_warning(served: pd.DataFrame) -> str | None:
    """What to tell the user where first requests are slower than a disturbance explains."""
    ratio = first_meeting_ratio(served)
    if ratio is None or ratio < _WORTH_SAYING:
        return None
    return (
        f"the first request of a recording took {ratio:.1f} times as long as its later ones: something is "
        "prepared for each new length inside measured time; measure with runner.warmup.every_recording=true"
    )
