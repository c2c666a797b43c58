"""The limit of concurrent deliveries to one AE or service."""

from config.destinations import Address, Hl7Destination, SenderDestination
from dicom_node.delivery.concurrency import AT_ONCE, ConcurrencyLimits
from tests.support.journals import destination


def address(ae_title: str) -> Address:
    return Address(ae_title=ae_title, host="localhost", port=104)


def test_destination_gets_two_deliveries_at_once_from_all_senders() -> None:
    limits, pacs = ConcurrencyLimits(), destination("pacs")

    acquired = [
        limits.for_peer(pacs, sender).acquire(blocking=False)
        for sender in ("DX1", "DX2", "DX3")
    ]

    assert acquired == [True] * AT_ONCE + [False]
    assert limits.for_peer(destination("other"), "DX1").acquire(blocking=False)
    limits.for_peer(pacs, "DX3").release()
    assert limits.for_peer(pacs, "DX4").acquire(blocking=False)


def test_return_delivery_to_a_sender_does_not_wait_for_other_senders() -> None:
    peers = address("DX1"), address("DX2")
    to_senders = SenderDestination(name="back", type="sender", peers=peers)
    limits = ConcurrencyLimits()
    for _ in range(AT_ONCE):
        assert limits.for_peer(to_senders, "DX1").acquire(blocking=False)

    assert not limits.for_peer(to_senders, "DX1").acquire(blocking=False)
    assert limits.for_peer(to_senders, "DX2").acquire(blocking=False)


def test_hl7_receiver_gets_one_message_at_a_time() -> None:
    limits = ConcurrencyLimits()
    ris = Hl7Destination(name="ris", type="hl7", host="ris", port=2575)

    acquired = [limits.for_peer(ris, "DX1").acquire(blocking=False) for _ in range(2)]

    assert acquired == [True, False]
