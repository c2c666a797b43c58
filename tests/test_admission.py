"""Who may associate, and how many at once over all processes."""

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
from dicom_node.admission import (
    ADDRESS_LIMIT_EXCEEDED,
    CALLED_UNKNOWN,
    CALLER_LIMIT_EXCEEDED,
    CALLING_UNKNOWN,
    LIMIT_EXCEEDED,
    Admission,
    Rejection,
    open_to_anyone,
)
from dicom_node.places import Place, held_places
from dicom_node.ports import open_ports
from tests.certificates import Certificates


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
    assert numbers(ADDRESS_LIMIT_EXCEEDED) == (2, 3, 2)


def test_a_place_that_is_given_back_is_free_again(tmp_path: Path) -> None:
    rules = admission(tmp_path, max_associations=2)
    first = rules.admit("A", "FRACTURE_AI", "192.0.2.1")
    rules.admit("A", "FRACTURE_AI", "192.0.2.1")

    assert rules.admit("A", "FRACTURE_AI", "192.0.2.1") is LIMIT_EXCEEDED
    assert isinstance(first, Place)
    first.give_back()
    assert isinstance(rules.admit("A", "FRACTURE_AI", "192.0.2.1"), Place)


def test_files_of_places_that_were_cleaned_up_are_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "associations"
    rules = admission(folder, max_associations=1)
    first = rules.admit("A", "FRACTURE_AI", "192.0.2.1")
    assert isinstance(first, Place)
    first.give_back()

    shutil.rmtree(tmp_path / "run")

    assert isinstance(rules.admit("A", "FRACTURE_AI", "192.0.2.1"), Place)
    assert rules.admit("B", "FRACTURE_AI", "192.0.2.2") is LIMIT_EXCEEDED


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


def test_an_address_has_no_more_than_its_share_whatever_its_titles(
    tmp_path: Path,
) -> None:
    rules = admission(
        tmp_path,
        max_associations=9,
        max_associations_per_caller=1,
        max_associations_per_address=3,
    )
    for title in "ABC":
        assert isinstance(rules.admit(title, "FRACTURE_AI", "192.0.2.1"), Place)

    assert rules.admit("D", "FRACTURE_AI", "192.0.2.1") is ADDRESS_LIMIT_EXCEEDED
    mapped = rules.admit("E", "FRACTURE_AI", "::ffff:192.0.2.1")
    assert mapped is ADDRESS_LIMIT_EXCEEDED
    assert isinstance(rules.admit("D", "FRACTURE_AI", "192.0.2.2"), Place)


def test_by_default_one_address_leaves_half_to_others(tmp_path: Path) -> None:
    rules = admission(tmp_path)
    answers = [rules.admit(f"T{n}", "FRACTURE_AI", "192.0.2.1") for n in range(60)]

    assert answers.count(ADDRESS_LIMIT_EXCEEDED) == 35
    assert isinstance(rules.admit("DX1", "FRACTURE_AI", "192.0.2.2"), Place)


def test_an_address_has_at_least_the_share_of_a_caller(tmp_path: Path) -> None:
    rules = admission(
        tmp_path, max_associations_per_caller=4, max_associations_per_address=2
    )
    answers = [rules.admit("GATEWAY", "FRACTURE_AI", "192.0.2.1") for _ in range(5)]

    assert answers[4] is CALLER_LIMIT_EXCEEDED
    assert all(isinstance(each, Place) for each in answers[:4])


def test_a_network_of_ipv6_counts_as_one_address(tmp_path: Path) -> None:
    rules = admission(
        tmp_path, max_associations_per_caller=1, max_associations_per_address=2
    )
    for address in ("2001:db8::1", "2001:db8::1:2:3:4"):
        assert isinstance(rules.admit("A", "FRACTURE_AI", address), Place) is (
            address == "2001:db8::1"
        )
    assert isinstance(rules.admit("B", "FRACTURE_AI", "2001:db8::2"), Place)
    third = rules.admit("C", "FRACTURE_AI", "2001:db8::3%eth0")
    assert third is ADDRESS_LIMIT_EXCEEDED
    assert isinstance(rules.admit("C", "FRACTURE_AI", "2001:db8:0:1::3"), Place)


def test_places_are_kept_for_callers_that_are_listed_with_a_network(
    tmp_path: Path,
) -> None:
    listed = [{"ae_title": f"DX{n}", "network": "10.1.0.0/16"} for n in range(3)]
    rules = admission(
        tmp_path,
        max_associations=5,
        reserved_associations=2,
        allowed_callers=["PACS", *listed],
    )
    # Anyone may call itself PACS. Two of five places are kept.
    answers = [rules.admit("PACS", "FRACTURE_AI", f"192.0.2.{n}") for n in range(4)]
    assert [isinstance(each, Place) for each in answers] == [True, True, True, False]
    assert answers[3] is LIMIT_EXCEEDED

    first = rules.admit("DX0", "FRACTURE_AI", "10.1.0.1")
    assert isinstance(first, Place)
    # It has one now: the last place is for the other two.
    assert rules.admit("DX0", "FRACTURE_AI", "10.1.0.1") is LIMIT_EXCEEDED
    assert isinstance(rules.admit("DX1", "FRACTURE_AI", "10.1.0.2"), Place)
    assert rules.admit("DX2", "FRACTURE_AI", "10.1.0.3") is LIMIT_EXCEEDED


def test_no_more_places_are_kept_than_callers_are_absent(tmp_path: Path) -> None:
    listed = [{"ae_title": "DX1", "network": "10.1.0.0/16"}, "DX2"]
    both = [*listed, {"ae_title": "DX2", "network": "10.1.0.0/16"}]
    for number, callers in enumerate((listed, both)):
        rules = admission(
            tmp_path / str(number), max_associations=4, allowed_callers=callers
        )
        held = [rules.admit("DX2", "FRACTURE_AI", "10.1.0.2") for _ in range(4)]

        assert sum(isinstance(each, Place) for each in held) == 3
        held = [rules.admit("DX1", "FRACTURE_AI", "10.1.0.1") for _ in range(2)]
        assert [isinstance(each, Place) for each in held] == [True, False]


def test_many_who_ask_at_once_get_the_share_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = admission(tmp_path, max_associations=20, max_associations_per_caller=7)
    write = os.pwrite

    def slowly(descriptor: int, content: bytes, offset: int) -> int:
        threading.Event().wait(0.005)  # in which the others count
        return write(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", slowly)
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
        assert held_places(tmp_path) == 2
        other.kill()

    assert held_places(tmp_path) == 1
    assert isinstance(rules.admit("A", "FRACTURE_AI", "192.0.2.1"), Place)
    assert isinstance(ours, Place)
    assert len(list(tmp_path.glob("*.callers"))) == 1


def test_places_that_are_given_back_are_nobodys(tmp_path: Path) -> None:
    rules = admission(tmp_path)
    places = [rules.admit("A", "FRACTURE_AI", f"192.0.2.{n}") for n in range(3)]

    for left in (2, 1, 0):
        place = places.pop(0)
        assert isinstance(place, Place)
        place.give_back()
        assert held_places(tmp_path) == left

    assert isinstance(rules.admit("A", "FRACTURE_AI", "192.0.2.1"), Place)
    assert held_places(tmp_path) == 1


@pytest.mark.parametrize("call", ["pwrite", "open"])
def test_a_full_disk_turns_nobody_away_and_is_made_good_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    rules = admission(tmp_path, max_associations=3)
    admission(tmp_path).admit("B", "FRACTURE_AI", "192.0.2.2")  # makes the door
    with monkeypatch.context() as full:

        def fail(path: Path, *_: object) -> int:
            if getattr(path, "name", "") == "door.lock":
                return door(path, os.O_RDWR)
            raise OSError(errno.ENOSPC, "No space left on device")

        door = os.open
        full.setattr(os, call, fail)
        answer = rules.admit("A", "FRACTURE_AI", "192.0.2.1")

    assert isinstance(answer, Place)
    assert isinstance(rules.admit("A", "FRACTURE_AI", "192.0.2.1"), Place)
    assert held_places(tmp_path) == 3
    assert rules.admit("A", "FRACTURE_AI", "192.0.2.1") is LIMIT_EXCEEDED


def test_a_place_is_given_back_where_the_folder_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    rules = admission(folder, max_associations=2)
    first, _ = (rules.admit("A", "FRACTURE_AI", "192.0.2.1") for _ in range(2))
    shutil.rmtree(folder)

    assert isinstance(first, Place)
    first.give_back()

    assert held_places(folder) == 0  # until the next to come writes what is true
    assert isinstance(rules.admit("A", "FRACTURE_AI", "192.0.2.1"), Place)
    assert held_places(folder) == 2
    assert rules.admit("A", "FRACTURE_AI", "192.0.2.1") is LIMIT_EXCEEDED


def test_the_share_of_a_caller_is_counted_over_processes_and_freed_with_one(
    tmp_path: Path,
) -> None:
    rules = admission(tmp_path, max_associations=9, max_associations_per_caller=1)
    with holding(tmp_path) as other:
        assert rules.admit("A", "FRACTURE_AI", "192.0.2.1") is CALLER_LIMIT_EXCEEDED
        other.kill()

    assert isinstance(rules.admit("A", "FRACTURE_AI", "192.0.2.1"), Place)


@pytest.mark.parametrize(
    ("receiver", "only", "warned"),
    [
        ({}, False, "ANYONE who reaches 0.0.0.0:11112 may send: name your modalities"),
        ({"host": "10.1.2.3"}, False, "ANYONE who reaches 10.1.2.3:11112 may send"),
        ({"host": "::"}, False, "ANYONE who reaches :::11112 may send"),
        ({"host": "127.0.0.1"}, False, ""),
        ({"host": "127.9.9.9"}, False, ""),
        ({"host": "::1"}, False, ""),
        ({"host": "localhost"}, False, ""),
        ({"allowed_callers": ["DX1"]}, False, ""),
        ({}, True, ""),  # who may call is told by certificates
    ],
)
def test_a_receiver_that_is_open_to_anyone_is_warned_of(
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

    told = open_to_anyone(defaults.model_copy(update={"receiver": given, "tls": tls}))

    assert len(told) == bool(warned)
    assert all(each.startswith(warned) for each in told)


def test_tls_for_everybody_is_open_to_anyone(certificates: Certificates) -> None:
    defaults = load(None, {})
    tls = TlsSettings(
        port=2762,
        certificate=certificates.node.certificate,
        private_key=certificates.node.key,
        client_authorities=None,
        only=True,
    )

    (told,) = open_to_anyone(defaults.model_copy(update={"tls": tls}))

    assert told.startswith("ANYONE who reaches 0.0.0.0:2762 may send")


def test_the_warning_is_one_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    defaults = load(None, {})
    anywhere = {"host": "0.0.0.0", "port": 0}  # noqa: S104 - what is warned of
    given = defaults.receiver.model_copy(update=anywhere)

    for each in open_ports(defaults.model_copy(update={"receiver": given})).values():
        each.close()

    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "ANYONE" in record.message
