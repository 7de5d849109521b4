"""How every command of this project ends: one line for the user, one exit code for CI."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable

from harness.errors import ExitCode, HarnessError
from harness.protocols.interrupts import interrupt_on

INTERRUPTED = 130
"""The shell's convention for a process that SIGINT ended."""


def end_on_signals() -> None:
    """A supervisor's SIGTERM, or a terminal that goes away, ends a command as Ctrl-C does: what was measured
    is merged and kept, whatever comes after the first of them."""
    interrupt_on(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def guarded(action: Callable[[], int]) -> int:
    """``action``'s exit code; an error becomes one line on stderr and the code of its kind."""
    try:
        return action()
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has seen enough (… | head)
        sys.stdout = None  # nothing is left to flush to
        return int(ExitCode.DONE)
    except Exception:
        traceback.print_exc()
        print(
            "error: this is a defect of the harness, not of your input; the trace above says where",
            file=sys.stderr,
        )
        return int(ExitCode.INTERNAL)
