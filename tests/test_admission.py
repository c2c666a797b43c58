"""Who may associate, and how many at once over all processes."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from config.settings import ReceiverSettings, load
from dicom_node.admission import (
    CALLED_UNKNOWN,
    CALLER_LIMIT_EXCEEDED,
    CALLING_UNKNOWN,
    LIMIT_EXCEEDED,
    Admission,
    Place,
    Rejection,
)


def admission(folder: Path, **changes: Any) -> Admission:  # noqa: ANN401 - settings
    given = load(None, {}).receiver.model_dump() | changes
    return Admission(ReceiverSettings.model_validate(given), folder)


def test_by_default_anyone_may_call_us_by_our_name(tmp_path: Path) -> None:
    answer = admission(tmp_path).admit("ANYONE", "FRACTURE_AI", "192.0.2.1")

    assert isinstance(answer, Place)


def test_another_called_ae_title_is_rejected(tmp_path: Path) -> None:
    answer = admission(tmp_path).admit("ANYONE", "ANY-SCP", "192.0.2.1")

    assert answer is CALLED_UNKNOWN


@pytest.mark.parametrize(
    ("calling", "address", "admitted"),
    [
        ("DX1", "10.1.2.3", True),
        ("DX1 ", "10.1.2.3", True),  # PS3.5 6.2: spaces at the end mean nothing
        ("DX1", "10.2.2.3", False),
        ("DX1", "::ffff:10.1.2.3", True),  # through an IPv6 socket
        ("DX1", "2001:db8::1", False),
        ("dx1", "10.1.2.3", False),
        ("CR1", "198.51.100.7", True),
        ("CR1", "fe80::1%eth0", True),
        ("CR2", "10.1.2.3", False),
    ],
)
def test_a_caller_is_known_by_its_title_and_its_network(
    tmp_path: Path,
    calling: str,
    address: str,
    admitted: bool,  # noqa: FBT001
) -> None:
    callers = [{"ae_title": "DX1", "network": "10.1.0.0/16"}, "CR1"]
    rules = admission(tmp_path, allowed_callers=callers)

    answer = rules.admit(calling, "FRACTURE_AI", address)

    assert isinstance(answer, Place) if admitted else answer is CALLING_UNKNOWN


def test_reasons_are_those_of_the_standard() -> None:
    def numbers(rejection: Rejection) -> tuple[int, int, int]:
        return rejection.result, rejection.source, rejection.diagnostic

    # PS3.8 table 9-21: result, source, reason.
    assert numbers(CALLED_UNKNOWN) == (1, 1, 7)
    assert numbers(CALLING_UNKNOWN) == (1, 1, 3)
    assert numbers(LIMIT_EXCEEDED) == (2, 3, 2)
    assert numbers(CALLER_LIMIT_EXCEEDED) == (2, 3, 2)


def test_a_place_that_is_given_back_is_free_again(tmp_path: Path) -> None:
    rules = admission(tmp_path, max_associations=2)
    first = rules.admit("A", "FRACTURE_AI", "192.0.2.1")
    rules.admit("A", "FRACTURE_AI", "192.0.2.1")

    assert rules.admit("A", "FRACTURE_AI", "192.0.2.1") is LIMIT_EXCEEDED
    assert isinstance(first, Place)
    first.give_back()
    assert isinstance(rules.admit("A", "FRACTURE_AI", "192.0.2.1"), Place)


def test_unknown_callers_take_no_place(tmp_path: Path) -> None:
    rules = admission(tmp_path, max_associations=1, allowed_callers=["CR1"])

    for _ in range(3):
        rules.admit("CR2", "FRACTURE_AI", "192.0.2.1")

    assert isinstance(rules.admit("CR1", "FRACTURE_AI", "192.0.2.1"), Place)


def test_a_caller_has_no_more_than_its_share_and_others_have_theirs(
    tmp_path: Path,
) -> None:
    rules = admission(tmp_path, max_associations=5, max_associations_per_caller=2)
    first = rules.admit("A", "FRACTURE_AI", "192.0.2.1")
    rules.admit("A ", "FRACTURE_AI", "::ffff:192.0.2.1")

    assert rules.admit("A", "FRACTURE_AI", "192.0.2.1") is CALLER_LIMIT_EXCEEDED
    # Another title, another address: other callers.
    assert isinstance(rules.admit("B", "FRACTURE_AI", "192.0.2.1"), Place)
    other = rules.admit("A", "FRACTURE_AI", "192.0.2.2")
    assert isinstance(other, Place)
    # A place that was the caller's is anybody's.
    assert isinstance(first, Place)
    first.give_back()
    assert isinstance(rules.admit("C", "FRACTURE_AI", "192.0.2.1"), Place)
    assert isinstance(rules.admit("A", "FRACTURE_AI", "192.0.2.1"), Place)
    assert rules.admit("A", "FRACTURE_AI", "192.0.2.1") is CALLER_LIMIT_EXCEEDED


def test_many_who_ask_at_once_get_the_share_exactly(tmp_path: Path) -> None:
    rules = admission(tmp_path, max_associations=20, max_associations_per_caller=7)

    with ThreadPoolExecutor(16) as pool:
        asked = [
            pool.submit(rules.admit, "A", "FRACTURE_AI", "192.0.2.1") for _ in range(32)
        ]
        answers = [each.result() for each in asked]

    assert sum(isinstance(each, Place) for each in answers) == 7
    assert answers.count(CALLER_LIMIT_EXCEEDED) == 25


HOLD = """
import sys
from pathlib import Path
from config.settings import load
from dicom_node.admission import Admission

settings = load(None, {}).receiver.model_copy(update={"max_associations": 2})
place = Admission(settings, Path(sys.argv[1])).admit("A", "FRACTURE_AI", "192.0.2.1")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that holds a place."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        yield other


def test_places_are_counted_over_processes_and_freed_when_one_is_killed(
    tmp_path: Path,
) -> None:
    rules = admission(tmp_path, max_associations=2)
    ours = rules.admit("A", "FRACTURE_AI", "192.0.2.1")
    with holding(tmp_path) as other:
        assert rules.admit("A", "FRACTURE_AI", "192.0.2.1") is LIMIT_EXCEEDED
        other.kill()

    assert isinstance(rules.admit("A", "FRACTURE_AI", "192.0.2.1"), Place)
    assert isinstance(ours, Place)


def test_the_share_of_a_caller_is_counted_over_processes_and_freed_with_one(
    tmp_path: Path,
) -> None:
    rules = admission(tmp_path, max_associations=9, max_associations_per_caller=1)
    with holding(tmp_path) as other:
        assert rules.admit("A", "FRACTURE_AI", "192.0.2.1") is CALLER_LIMIT_EXCEEDED
        other.kill()

    assert isinstance(rules.admit("A", "FRACTURE_AI", "192.0.2.1"), Place)
