"""How many deliveries there are at once to one AE or service."""

from config.destinations import Address, SenderDestination
from dicom_node.turns import AT_ONCE, Turns
from tests.journals import destination


def room(ae_title: str) -> Address:
    return Address(ae_title=ae_title, host="localhost", port=104)


def test_to_a_destination_go_two_at_once_whoever_sent_the_instances() -> None:
    turns, pacs = Turns(), destination("pacs")

    taken = [
        turns.at(pacs, came_from).acquire(blocking=False)
        for came_from in ("DX1", "DX2", "DX3")
    ]

    assert taken == [True] * AT_ONCE + [False]
    assert turns.at(destination("other"), "DX1").acquire(blocking=False)
    turns.at(pacs, "DX3").release()
    assert turns.at(pacs, "DX4").acquire(blocking=False)


def test_of_senders_none_waits_for_another_that_hangs() -> None:
    peers = room("DX1"), room("DX2")
    back = SenderDestination(name="back", type="sender", peers=peers)
    turns = Turns()
    for _ in range(AT_ONCE):
        assert turns.at(back, "DX1").acquire(blocking=False)

    assert not turns.at(back, "DX1").acquire(blocking=False)
    assert turns.at(back, "DX2").acquire(blocking=False)
