from __future__ import annotations

import pytest

from harness.config.needs import Machine, missing
from harness.errors import UsageError


class MachineOf(Machine):
    """A machine with stated parts."""

    def __init__(
        self, capability: tuple[int, ...] | None = None, driver: tuple[int, ...] | None = None
    ) -> None:
        self.__dict__.update(compute_capability=capability, cuda_driver=driver)


def test_nothing_is_needed_by_default() -> None:
    assert missing([], MachineOf()) == []


def test_a_missing_gpu_is_named() -> None:
    (lack,) = missing(["gpu"], MachineOf())
    assert "no NVIDIA GPU" in lack.message


def test_a_missing_package_is_named() -> None:
    (lack,) = missing(["package:numpy", "package:no_such_package"], MachineOf())
    assert "no_such_package" in lack.message


def test_a_missing_package_is_named_as_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another project owns the name under which Whisper is imported."""
    monkeypatch.setattr(Machine, "has_package", lambda _machine, _name: False)
    (lack,) = missing(["package:whisper"], MachineOf())
    assert "'openai-whisper' is not installed" in lack.message


@pytest.mark.parametrize(
    ("need", "capability", "met"),
    [
        ("compute_capability>=9.0", (9, 0), True),
        ("compute_capability>=9.0", (10, 0), True),
        ("compute_capability>=9.0", (8, 9), False),
        ("compute_capability>=9.0", None, False),
    ],
)
def test_compute_capability_is_compared_as_a_version(
    need: str, capability: tuple[int, ...] | None, met: bool
) -> None:
    assert (not missing([need], MachineOf(capability))) is met


def test_an_old_driver_is_named_with_what_it_supports() -> None:
    (lack,) = missing(["cuda>=12.4"], MachineOf((9, 0), (12, 2)))
    assert "12.4" in lack.message
    assert "12.2" in lack.message


def test_python_itself_can_be_needed() -> None:
    assert missing(["python>=3.11"], MachineOf()) == []
    assert missing(["python>=3.99"], MachineOf())


@pytest.mark.parametrize("need", ["a gpu", "gpus>=2", "cuda"])
def test_a_need_nobody_can_check_is_an_error_of_the_leaf(need: str) -> None:
    with pytest.raises(UsageError, match="needs"):
        missing([need], MachineOf())


def test_this_machine_answers_without_a_cuda_context() -> None:
    machine = Machine()
    assert machine.compute_capability is None or len(machine.compute_capability) == 2
    assert machine.has_package("numpy")
    assert not machine.has_package("no_such.package")
