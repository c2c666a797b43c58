"""The reports of an archive are accepted from that archive only."""

import socket

import pytest

from config.destinations import (
    Address,
)
from dicom_node.network.commitment_reporter import Reporter, may_report

PACS = Address(ae_title="PACS", host="pacs.example", port=104)
TWO = Address(ae_title="TWO", host="10.0.0.2", port=104)


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolve pacs.example to two addresses, 10.0.0.2 to itself, and no other host."""

    def resolve(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        known = {"pacs.example": ["10.0.0.1", "fd00::1"], "10.0.0.2": ["10.0.0.2"]}
        if host not in known:
            raise socket.gaierror
        return [(0, 0, 0, "", (each, 0)) for each in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.parametrize(
    ("reporter", "may"),
    [
        (Reporter("PACS", "10.0.0.1"), True),
        (Reporter("PACS", "::ffff:10.0.0.1"), True),
        (Reporter("PACS", "fd00::1%3"), True),
        (Reporter("PACS", "10.0.0.9"), False),
        (Reporter("PACS2", "10.0.0.1"), False),
        (Reporter("PACS", "10.0.0.9", frozenset({"Pacs.Example."})), True),
        (Reporter("PACS", "10.0.0.9", frozenset({"*.example"})), True),
        (Reporter("PACS", "10.0.0.9", frozenset({"*", "*.", "dx.example"})), False),
        (Reporter("PACS2", "10.0.0.9", frozenset({"pacs.example"})), False),
        (Reporter("PACS", "10.0.0.9", called=PACS), True),
        (Reporter("PACS", "10.0.0.1", called=TWO), False),
    ],
)
def test_report_is_accepted_by_title_and_address_or_certificate(
    reporter: Reporter,
    may: bool,  # noqa: FBT001
) -> None:
    assert may_report(reporter, PACS) is may


def test_a_certificate_may_name_an_address() -> None:
    assert may_report(Reporter("TWO", "10.0.0.9", frozenset({"10.0.0.2"})), TWO)
    assert not may_report(Reporter("TWO", "10.0.0.9", frozenset({"*.0.0.2"})), TWO)


def test_unresolvable_host_is_an_error() -> None:
    unresolvable = PACS.model_copy(update={"host": "gone.example"})

    with pytest.raises(OSError):  # noqa: PT011 - whichever the system raises
        may_report(Reporter("PACS", "10.0.0.1"), unresolvable)
