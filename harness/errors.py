"""Every way a run can end, as an exception that carries its exit code.

The codes are the contract with CI: 0 done, 1 internal error, 2 wrong usage or configuration,
3 unavailable here, 4 invalid measurement, 5 regression, 6 not comparable, 7 inconclusive.
"""

from __future__ import annotations

from enum import IntEnum

from harness.printable import printable


class ExitCode(IntEnum):
    """Process exit status of every command of this project."""

    DONE = 0
    INTERNAL = 1
    USAGE = 2
    UNAVAILABLE = 3
    INVALID = 4
    REGRESSION = 5
    NOT_COMPARABLE = 6
    INCONCLUSIVE = 7


class HarnessError(Exception):
    """A failure with a message for the user: what is wrong, where, and what to do about it."""

    exit_code = ExitCode.INTERNAL

    def __str__(self) -> str:
        return printable(super().__str__())  # it may quote a path, a file or a library


class UsageError(HarnessError):
    """A key, a file or a combination of them that the user has to change."""

    exit_code = ExitCode.USAGE


class UnavailableError(HarnessError):
    """This machine lacks what a variant needs; the message names it."""

    exit_code = ExitCode.UNAVAILABLE


class InvalidMeasurementError(HarnessError):
    """A number was taken that must not be reported; the message names the rule it broke."""

    exit_code = ExitCode.INVALID


class NotComparableError(HarnessError):
    """Two runs differ in a field that is not the subject of the comparison."""

    exit_code = ExitCode.NOT_COMPARABLE


class RequestError(HarnessError):
    """One request failed (broken audio, say). It costs that request's row, never the run."""
