"""What is found of a machine: facts, and complaints with their remedies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fact:
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Complaint:
    """Something that makes timing unsteady, or one machine's figures unlike another's."""

    what: str
    remedy: str


Finding = Fact | Complaint
