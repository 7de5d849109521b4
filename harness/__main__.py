"""``python -m harness``."""

import sys

from harness.cli import main
from harness.command import command

sys.exit(command(main))
