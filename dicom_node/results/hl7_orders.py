"""The orders of an image or an examination, each once, for an HL7 message."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dicom_node.dataset.attributes import items
from dicom_node.results.hl7_values import OrderNumbers, StudyValues, study_values
from dicom_node.results.source import Source, reading

MOST_ORDERS = 20
"""Maximum number of items of Request Attributes Sequence that are read."""


@dataclass(frozen=True, slots=True)
class Order:
    """An order, with the order numbers of the images and items that belong to it.

    Attributes:
        study: The patient, the order and the study.
        numbers: Order numbers that belong to the order. If some of them are incomplete,
            `study` has the numbers that the others add.
    """

    study: StudyValues
    numbers: frozenset[OrderNumbers]

    def has_any(self, studies: Iterable[StudyValues]) -> bool:
        """Return whether one of the orders of an image is this order."""
        return any(each.order_numbers in self.numbers for each in studies)


def read_orders(source: Source) -> list[StudyValues]:
    """Return the patient, the order and the study, once for each order of an instance.

    One acquisition may be for several orders. The orders are the first MOST_ORDERS
    items of Request Attributes Sequence (0040,0275). Attributes that an item lacks are
    read from the dataset itself. Items of one order, such as the steps of a procedure,
    are combined (see `distinct_orders`). Items without an order number are ignored if
    another item has one.

    Returns:
        At least one element. If the sequence has no items, the order is read from the
        dataset itself.

    Raises:
        AnalysisError: A sequence cannot be read.
    """
    with reading():
        requests = items(source.dataset, "RequestAttributesSequence")[:MOST_ORDERS]
        read = [study_values(source, each) for each in requests]
        read = read or [study_values(source, None)]
    orders = [each.study for each in distinct_orders(read)]
    return [each for each in orders if any(each.order_numbers)] or orders


def distinct_orders(read: Sequence[StudyValues]) -> list[Order]:
    """Return each order once, in the order of their first elements in `read`.

    Order numbers belong to one order if they have a number in common, and if each of
    the three numbers is equal in both, or empty in one. The values of an order are
    those of its first element with the most numbers. If its other numbers or its
    Requested Procedure ID are empty, they are from further elements.

    Incomplete numbers may belong to several orders: the accession number A belongs to
    A with the placer number P, and to A with the placer number Q. They are then in
    `Order.numbers` of each, and add no number to either.
    """
    distinct = {each.order_numbers: each for each in reversed(read)}
    places = [each.order_numbers for each in read]
    orders: list[Order] = []
    for numbers in sorted(dict.fromkeys(places), key=lambda each: each.count("")):
        own = [at for at, each in enumerate(orders) if _agree(each.study, numbers)]
        for at in own:
            study, known = orders[at].study, orders[at].numbers | {numbers}
            if len(own) == 1:
                study = _completed(study, distinct[numbers])
            orders[at] = Order(study, known)
        if not own:
            orders.append(Order(distinct[numbers], frozenset([numbers])))
    return sorted(orders, key=lambda each: min(map(places.index, each.numbers)))


def _agree(study: StudyValues, numbers: OrderNumbers) -> bool:
    """Return whether order numbers may belong to an order."""
    pairs = [*zip(study.order_numbers, numbers, strict=True)]
    shares = any(ours == theirs != "" for ours, theirs in pairs)
    return shares and all(
        ours == theirs or not (ours and theirs) for ours, theirs in pairs
    )


def _completed(study: StudyValues, other: StudyValues) -> StudyValues:
    """Return `study` with the numbers of `other` that it lacks."""
    return replace(
        study,
        placer=study.placer if study.placer.value else other.placer,
        filler=study.filler if study.filler.value else other.filler,
        accession=study.accession if study.accession.value else other.accession,
        requested_procedure_id=(
            study.requested_procedure_id or other.requested_procedure_id
        ),
    )
