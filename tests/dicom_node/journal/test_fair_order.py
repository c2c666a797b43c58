"""The addresses with waiting images in a lane take turns."""

import heapq

from dicom_node.journal.fair_order import MAX_ADDRESSES, FairOrder


class Lane:
    """The waiting images of a lane, ordered by their numbers and then by arrival."""

    def __init__(self, *orders: FairOrder) -> None:
        self.orders = orders or (FairOrder(),)
        self._waiting: list[tuple[int, int, str]] = []
        self._arrivals = 0

    def add(self, address: str, process: int = 0) -> None:
        lowest = self._waiting[0][0] if self._waiting else None
        number = self.orders[process].number(address, lowest)
        self._arrivals += 1
        heapq.heappush(self._waiting, (number, self._arrivals, address))

    def next(self) -> str:
        return heapq.heappop(self._waiting)[2]

    def until(self, address: str) -> list[str]:
        """Remove the first image of `address`, and all images before it.

        Returns:
            The addresses of the images before it.
        """
        before = []
        while (each := self.next()) != address:
            before.append(each)
        return before


def test_images_of_one_address_keep_their_order() -> None:
    order = FairOrder()

    assert [order.number("a", 1) for _ in range(3)] == [1, 2, 3]


def test_an_image_waits_for_one_image_of_each_other_address() -> None:
    lane = Lane()
    for _ in range(20):
        for address in "abc":
            lane.add(address)
    lane.add("good")

    assert lane.until("good") == ["a", "b", "c"]


def test_an_address_that_has_waited_stays_before_one_that_comes_later() -> None:
    lane = Lane()
    for _ in range(20):
        lane.add("a")
    for _ in range(10):
        lane.next()
    for _ in range(3):
        lane.add("b")

    assert [lane.next() for _ in range(7)] == ["a", "b", "a", "b", "a", "b", "a"]


def test_a_restarted_process_puts_no_address_before_all_others() -> None:
    lane = Lane()
    for _ in range(500):
        lane.add("attacker")
        lane.add("attacker")
        lane.next()
    lane.add("good")
    lane.orders = (FairOrder(),)
    for _ in range(500):
        lane.add("attacker")

    assert lane.until("good") == ["attacker"]


def test_an_image_waits_for_one_image_of_each_address_and_process() -> None:
    lane = Lane(FairOrder(), FairOrder())
    for process in (0, 1):
        for _ in range(50):
            lane.add("attacker", process)
    lane.add("good", 1)

    assert lane.until("good") == ["attacker", "attacker"]


def test_the_numbers_start_again_if_no_image_waits() -> None:
    order = FairOrder()
    for _ in range(5):
        order.number("a", 1)

    assert order.number("b", 5) == 5
    assert order.number("a", None) == 1
    assert order.number("b", 1) == 1


def test_the_addresses_are_limited_in_number() -> None:
    order = FairOrder()
    assert order.number("oldest", 1) == 1
    for number in range(MAX_ADDRESSES - 1):
        order.number(str(number), 1)
    assert order.number("oldest", 1) == 2
    order.number("another", 1)

    assert order.number("0", 1) == 1
    assert order.number("2", 1) == 2
