"""An address with many images in a lane does not delay another address."""

from dicom_node.analysis.fair_order import MAX_ADDRESSES, FairOrder


def test_images_of_one_address_keep_their_order() -> None:
    order = FairOrder()

    assert [order.number("a") for _ in range(3)] == [1, 2, 3]


def test_the_first_image_of_an_address_goes_before_the_second_of_the_others() -> None:
    order = FairOrder()
    waiting = [(order.number(address), address) for address in "abc" for _ in range(20)]
    waiting.append((order.number("good"), "good"))

    before = sorted(waiting, key=lambda each: each[0]).index((1, "good"))
    assert before == 3


def test_an_address_that_waits_long_stays_before_one_that_comes_later() -> None:
    order = FairOrder()
    numbers = [order.number("a") for _ in range(20)]
    order.begin(numbers[9])

    late = [order.number("b") for _ in range(3)]

    assert late == [10, 11, 12]
    assert late[0] < numbers[10]


def test_an_image_that_another_worker_numbered_is_a_later_one() -> None:
    order = FairOrder()
    order.begin(30)
    order.begin(20)

    assert order.number("a") == 30


def test_the_addresses_are_limited_in_number() -> None:
    order = FairOrder()
    assert order.number("oldest") == 1
    for number in range(MAX_ADDRESSES - 1):
        order.number(str(number))
    assert order.number("oldest") == 2
    order.number("another")
    order.number("0")

    assert order.number("1") == 1
