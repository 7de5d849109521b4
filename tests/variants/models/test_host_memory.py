"""Large activations are not faulted in anew for every batch."""

from __future__ import annotations

import subprocess
import sys

_FAULTS = """
import resource
from variants.models.parakeet_tiny import build
from variants.models.options import ModelOptions
build(ModelOptions("parakeet_tiny", weights="embedded", device="cpu"))
import torch
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    torch.ones(12 << 20).add_(1)  # 48 MiB
for _ in range(5):
    use()
before = faults()
for _ in range(10):
    use()
print(faults() - before)
"""


def test_a_model_on_the_cpu_keeps_what_it_frees() -> None:
    done = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True)
    pages = (48 << 20) // 4096
    assert int(done.stdout.splitlines()[-1]) < 2 * pages  # ten times as many were used
