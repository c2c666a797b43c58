"""Admission of associations: permitted callers, and limits over all processes."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from config.settings import ReceiverSettings, load
from config.tls import TlsSettings
from dicom_node.reasons import Rejection
from dicom_node.receiver.admission import Admission, open_to_anyone
from dicom_node.receiver.association_slots import (
    AssociationSlot,
    count_open_associations,
)
from dicom_node.receiver.ports import open_ports
from tests.support.certificates import Certificates


def admission(folder: Path, **changes: Any) -> Admission:  # noqa: ANN401 - settings
    given = load(None, {}).receiver.model_dump() | changes
    return Admission(ReceiverSettings.model_validate(given), folder)


def test_any_caller_is_admitted_by_default(tmp_path: Path) -> None:
    decision = admission(tmp_path).admit("ANYONE", "FRACTURE_AI", "192.0.2.1")

    assert isinstance(decision, AssociationSlot)


def test_unknown_called_ae_title_is_rejected(tmp_path: Path) -> None:
    decision = admission(tmp_path).admit("ANYONE", "ANY-SCP", "192.0.2.1")

    assert decision is Rejection.CALLED_UNKNOWN


@pytest.mark.parametrize(
    ("calling", "address", "admitted"),
    [
        ("DX1", "10.1.2.3", True),
        ("DX1 ", "10.1.2.3", True),  # PS3.5 6.2: trailing spaces are not significant
        ("DX1", "10.2.2.3", False),
        ("DX1", "::ffff:10.1.2.3", True),  # through an IPv6 socket
        ("DX1", "2001:db8::1", False),
        ("dx1", "10.1.2.3", False),
        ("CR1", "198.51.100.7", True),
        ("CR1", "fe80::1%eth0", True),
        ("CR2", "10.1.2.3", False),
    ],
)
def test_listed_caller_is_admitted_by_ae_title_and_network(
    tmp_path: Path,
    calling: str,
    address: str,
    admitted: bool,  # noqa: FBT001
) -> None:
    callers = [{"ae_title": "DX1", "network": "10.1.0.0/16"}, "CR1"]
    rules = admission(tmp_path, allowed_callers=callers)

    decision = rules.admit(calling, "FRACTURE_AI", address)

    assert (
        isinstance(decision, AssociationSlot)
        if admitted
        else decision is Rejection.CALLING_UNKNOWN
    )


def test_rejections_have_the_codes_of_the_standard() -> None:
    def numbers(rejection: Rejection) -> tuple[int, int, int]:
        return rejection.result, rejection.source, rejection.diagnostic

    # PS3.8 table 9-21: result, source, reason.
    assert numbers(Rejection.CALLED_UNKNOWN) == (1, 1, 7)
    assert numbers(Rejection.CALLING_UNKNOWN) == (1, 1, 3)
    assert numbers(Rejection.LIMIT_EXCEEDED) == (2, 3, 2)
    assert numbers(Rejection.CALLER_LIMIT_EXCEEDED) == (2, 3, 2)
    assert numbers(Rejection.ADDRESS_LIMIT_EXCEEDED) == (2, 3, 2)


def test_released_slot_is_available_again(tmp_path: Path) -> None:
    rules = admission(tmp_path, max_associations=2)
    first = rules.admit("A", "FRACTURE_AI", "192.0.2.1")
    rules.admit("A", "FRACTURE_AI", "192.0.2.1")

    assert rules.admit("A", "FRACTURE_AI", "192.0.2.1") is Rejection.LIMIT_EXCEEDED
    assert isinstance(first, AssociationSlot)
    first.release()
    assert isinstance(rules.admit("A", "FRACTURE_AI", "192.0.2.1"), AssociationSlot)


def test_slot_files_are_created_again_if_the_folder_was_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "associations"
    rules = admission(folder, max_associations=1)
    first = rules.admit("A", "FRACTURE_AI", "192.0.2.1")
    assert isinstance(first, AssociationSlot)
    first.release()

    shutil.rmtree(tmp_path / "run")

    assert isinstance(rules.admit("A", "FRACTURE_AI", "192.0.2.1"), AssociationSlot)
    assert rules.admit("B", "FRACTURE_AI", "192.0.2.2") is Rejection.LIMIT_EXCEEDED


def test_unlisted_callers_take_no_slot(tmp_path: Path) -> None:
    rules = admission(tmp_path, max_associations=1, allowed_callers=["CR1"])

    for _ in range(3):
        rules.admit("CR2", "FRACTURE_AI", "192.0.2.1")

    assert isinstance(rules.admit("CR1", "FRACTURE_AI", "192.0.2.1"), AssociationSlot)


def test_limit_per_caller_does_not_affect_other_callers(
    tmp_path: Path,
) -> None:
    rules = admission(tmp_path, max_associations=5, max_associations_per_caller=2)
    first = rules.admit("A", "FRACTURE_AI", "192.0.2.1")
    rules.admit("A ", "FRACTURE_AI", "::ffff:192.0.2.1")

    assert (
        rules.admit("A", "FRACTURE_AI", "192.0.2.1") is Rejection.CALLER_LIMIT_EXCEEDED
    )
    # A caller with another title or another address is a different caller.
    assert isinstance(rules.admit("B", "FRACTURE_AI", "192.0.2.1"), AssociationSlot)
    other = rules.admit("A", "FRACTURE_AI", "192.0.2.2")
    assert isinstance(other, AssociationSlot)
    # Any caller can take the released slot.
    assert isinstance(first, AssociationSlot)
    first.release()
    assert isinstance(rules.admit("C", "FRACTURE_AI", "192.0.2.1"), AssociationSlot)
    assert isinstance(rules.admit("A", "FRACTURE_AI", "192.0.2.1"), AssociationSlot)
    assert (
        rules.admit("A", "FRACTURE_AI", "192.0.2.1") is Rejection.CALLER_LIMIT_EXCEEDED
    )


def test_limit_per_address_counts_all_ae_titles(
    tmp_path: Path,
) -> None:
    rules = admission(
        tmp_path,
        max_associations=9,
        max_associations_per_caller=1,
        max_associations_per_address=3,
    )
    for title in "ABC":
        assert isinstance(
            rules.admit(title, "FRACTURE_AI", "192.0.2.1"), AssociationSlot
        )

    assert (
        rules.admit("D", "FRACTURE_AI", "192.0.2.1") is Rejection.ADDRESS_LIMIT_EXCEEDED
    )
    mapped = rules.admit("E", "FRACTURE_AI", "::ffff:192.0.2.1")
    assert mapped is Rejection.ADDRESS_LIMIT_EXCEEDED
    assert isinstance(rules.admit("D", "FRACTURE_AI", "192.0.2.2"), AssociationSlot)


def test_default_limit_per_address_is_half_of_the_slots(tmp_path: Path) -> None:
    rules = admission(tmp_path)
    decisions = [rules.admit(f"T{n}", "FRACTURE_AI", "192.0.2.1") for n in range(60)]

    assert decisions.count(Rejection.ADDRESS_LIMIT_EXCEEDED) == 35
    assert isinstance(rules.admit("DX1", "FRACTURE_AI", "192.0.2.2"), AssociationSlot)


def test_limit_per_address_is_not_below_the_limit_per_caller(tmp_path: Path) -> None:
    rules = admission(
        tmp_path, max_associations_per_caller=4, max_associations_per_address=2
    )
    decisions = [rules.admit("GATEWAY", "FRACTURE_AI", "192.0.2.1") for _ in range(5)]

    assert decisions[4] is Rejection.CALLER_LIMIT_EXCEEDED
    assert all(isinstance(each, AssociationSlot) for each in decisions[:4])


def test_ipv6_network_counts_as_one_address(tmp_path: Path) -> None:
    rules = admission(
        tmp_path, max_associations_per_caller=1, max_associations_per_address=2
    )
    for address in ("2001:db8::1", "2001:db8::1:2:3:4"):
        assert isinstance(
            rules.admit("A", "FRACTURE_AI", address), AssociationSlot
        ) is (address == "2001:db8::1")
    assert isinstance(rules.admit("B", "FRACTURE_AI", "2001:db8::2"), AssociationSlot)
    third = rules.admit("C", "FRACTURE_AI", "2001:db8::3%eth0")
    assert third is Rejection.ADDRESS_LIMIT_EXCEEDED
    assert isinstance(
        rules.admit("C", "FRACTURE_AI", "2001:db8:0:1::3"), AssociationSlot
    )


def test_slots_are_reserved_for_callers_listed_with_a_network(
    tmp_path: Path,
) -> None:
    listed = [{"ae_title": f"DX{n}", "network": "10.1.0.0/16"} for n in range(3)]
    rules = admission(
        tmp_path,
        max_associations=5,
        reserved_associations=2,
        allowed_callers=["PACS", *listed],
    )
    # Any peer can use the title PACS. Two of five slots are reserved.
    decisions = [rules.admit("PACS", "FRACTURE_AI", f"192.0.2.{n}") for n in range(4)]
    assert [isinstance(each, AssociationSlot) for each in decisions] == [
        True,
        True,
        True,
        False,
    ]
    assert decisions[3] is Rejection.LIMIT_EXCEEDED

    first = rules.admit("DX0", "FRACTURE_AI", "10.1.0.1")
    assert isinstance(first, AssociationSlot)
    # DX0 has a slot now. The last slot is reserved for the other two callers.
    assert rules.admit("DX0", "FRACTURE_AI", "10.1.0.1") is Rejection.LIMIT_EXCEEDED
    assert isinstance(rules.admit("DX1", "FRACTURE_AI", "10.1.0.2"), AssociationSlot)
    assert rules.admit("DX2", "FRACTURE_AI", "10.1.0.3") is Rejection.LIMIT_EXCEEDED


def test_number_of_reserved_slots_is_at_most_the_number_of_absent_callers(
    tmp_path: Path,
) -> None:
    listed = [{"ae_title": "DX1", "network": "10.1.0.0/16"}, "DX2"]
    both = [*listed, {"ae_title": "DX2", "network": "10.1.0.0/16"}]
    for number, callers in enumerate((listed, both)):
        rules = admission(
            tmp_path / str(number), max_associations=4, allowed_callers=callers
        )
        decisions = [rules.admit("DX2", "FRACTURE_AI", "10.1.0.2") for _ in range(4)]

        assert sum(isinstance(each, AssociationSlot) for each in decisions) == 3
        decisions = [rules.admit("DX1", "FRACTURE_AI", "10.1.0.1") for _ in range(2)]
        assert [isinstance(each, AssociationSlot) for each in decisions] == [
            True,
            False,
        ]


def test_concurrent_requests_of_a_caller_get_exactly_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = admission(tmp_path, max_associations=20, max_associations_per_caller=7)
    write = os.pwrite

    def slow_write(descriptor: int, content: bytes, offset: int) -> int:
        threading.Event().wait(0.005)  # other threads count during this time
        return write(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", slow_write)
    with ThreadPoolExecutor(16) as pool:
        futures = [
            pool.submit(rules.admit, "A", "FRACTURE_AI", "192.0.2.1") for _ in range(32)
        ]
        decisions = [each.result() for each in futures]

    assert sum(isinstance(each, AssociationSlot) for each in decisions) == 7
    assert decisions.count(Rejection.CALLER_LIMIT_EXCEEDED) == 25


HOLD = """
import sys
from pathlib import Path
from config.settings import load
from dicom_node.receiver.admission import Admission

settings = load(None, {}).receiver.model_copy(update={"max_associations": 2})
place = Admission(settings, Path(sys.argv[1])).admit("A", "FRACTURE_AI", "192.0.2.1")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that holds an association slot; yield the process."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        yield other


def test_slots_are_counted_over_processes_and_released_if_a_process_is_killed(
    tmp_path: Path,
) -> None:
    rules = admission(tmp_path, max_associations=2)
    own = rules.admit("A", "FRACTURE_AI", "192.0.2.1")
    with holding(tmp_path) as other:
        assert rules.admit("A", "FRACTURE_AI", "192.0.2.1") is Rejection.LIMIT_EXCEEDED
        assert count_open_associations(tmp_path) == 2
        other.kill()

    assert count_open_associations(tmp_path) == 1
    assert isinstance(rules.admit("A", "FRACTURE_AI", "192.0.2.1"), AssociationSlot)
    assert isinstance(own, AssociationSlot)
    assert len(list(tmp_path.glob("*.callers"))) == 1


def test_released_slots_are_not_counted(tmp_path: Path) -> None:
    rules = admission(tmp_path)
    slots = [rules.admit("A", "FRACTURE_AI", f"192.0.2.{n}") for n in range(3)]

    for left in (2, 1, 0):
        slot = slots.pop(0)
        assert isinstance(slot, AssociationSlot)
        slot.release()
        assert count_open_associations(tmp_path) == left

    assert isinstance(rules.admit("A", "FRACTURE_AI", "192.0.2.1"), AssociationSlot)
    assert count_open_associations(tmp_path) == 1


@pytest.mark.parametrize("call", ["pwrite", "open"])
def test_full_disk_rejects_no_caller_and_later_counts_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    rules = admission(tmp_path, max_associations=3)
    admission(tmp_path).admit("B", "FRACTURE_AI", "192.0.2.2")  # creates the lock file
    with monkeypatch.context() as full:

        def fail(path: Path, *_: object) -> int:
            if getattr(path, "name", "") == "door.lock":
                return real_open(path, os.O_RDWR)
            raise OSError(errno.ENOSPC, "No space left on device")

        real_open = os.open
        full.setattr(os, call, fail)
        decision = rules.admit("A", "FRACTURE_AI", "192.0.2.1")

    assert isinstance(decision, AssociationSlot)
    assert isinstance(rules.admit("A", "FRACTURE_AI", "192.0.2.1"), AssociationSlot)
    assert count_open_associations(tmp_path) == 3
    assert rules.admit("A", "FRACTURE_AI", "192.0.2.1") is Rejection.LIMIT_EXCEEDED


def test_slot_is_released_if_the_folder_was_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    rules = admission(folder, max_associations=2)
    first, _ = (rules.admit("A", "FRACTURE_AI", "192.0.2.1") for _ in range(2))
    shutil.rmtree(folder)

    assert isinstance(first, AssociationSlot)
    first.release()

    assert (
        count_open_associations(folder) == 0
    )  # until the next admission writes the count
    assert isinstance(rules.admit("A", "FRACTURE_AI", "192.0.2.1"), AssociationSlot)
    assert count_open_associations(folder) == 2
    assert rules.admit("A", "FRACTURE_AI", "192.0.2.1") is Rejection.LIMIT_EXCEEDED


def test_limit_per_caller_is_counted_over_processes(
    tmp_path: Path,
) -> None:
    rules = admission(tmp_path, max_associations=9, max_associations_per_caller=1)
    with holding(tmp_path) as other:
        assert (
            rules.admit("A", "FRACTURE_AI", "192.0.2.1")
            is Rejection.CALLER_LIMIT_EXCEEDED
        )
        other.kill()

    assert isinstance(rules.admit("A", "FRACTURE_AI", "192.0.2.1"), AssociationSlot)


@pytest.mark.parametrize(
    ("receiver", "only", "warned"),
    [
        (
            {},
            False,
            "ANYONE who can reach 0.0.0.0:11112 can send instances: list",
        ),
        ({"host": "10.1.2.3"}, False, "ANYONE who can reach 10.1.2.3:11112 can send"),
        ({"host": "::"}, False, "ANYONE who can reach :::11112 can send"),
        ({"host": "127.0.0.1"}, False, ""),
        ({"host": "127.9.9.9"}, False, ""),
        ({"host": "::1"}, False, ""),
        ({"host": "localhost"}, False, ""),
        ({"allowed_callers": ["DX1"]}, False, ""),
        ({}, True, ""),  # certificates limit the callers
    ],
)
def test_warning_if_any_caller_can_reach_the_receiver(
    receiver: dict[str, object],
    only: bool,  # noqa: FBT001
    warned: str,
    certificates: Certificates,
) -> None:
    defaults = load(None, {})
    tls = TlsSettings(
        port=2762,
        certificate=certificates.node.certificate,
        private_key=certificates.node.key,
        client_authorities=certificates.authority.certificate,
        only=only,
    )
    given = ReceiverSettings.model_validate(defaults.receiver.model_dump() | receiver)

    warnings = open_to_anyone(
        defaults.model_copy(update={"receiver": given, "tls": tls})
    )

    assert len(warnings) == bool(warned)
    assert all(each.startswith(warned) for each in warnings)


def test_warning_if_tls_needs_no_client_certificate(certificates: Certificates) -> None:
    defaults = load(None, {})
    tls = TlsSettings(
        port=2762,
        certificate=certificates.node.certificate,
        private_key=certificates.node.key,
        client_authorities=None,
        only=True,
    )

    (warning,) = open_to_anyone(defaults.model_copy(update={"tls": tls}))

    assert warning.startswith("ANYONE who can reach 0.0.0.0:2762 can send")


@pytest.mark.integration
def test_warning_is_logged_when_the_ports_are_opened(
    caplog: pytest.LogCaptureFixture,
) -> None:
    defaults = load(None, {})
    anywhere = {"host": "0.0.0.0", "port": 0}  # noqa: S104 - causes the warning
    given = defaults.receiver.model_copy(update=anywhere)

    for each in open_ports(defaults.model_copy(update={"receiver": given})).values():
        each.close()

    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "ANYONE" in record.message
