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
    A with the placer number P, and to A with the placer number Q. So does A with the
    filler number F. They are then in `Order.numbers` of each, and add no number to
    either.
    """
    distinct: dict[OrderNumbers, StudyValues] = {}
    for each in read:
        distinct.setdefault(each.order_numbers, each)
    places = {numbers: at for at, numbers in enumerate(distinct)}
    unclear = {each for each in distinct if _fits_several(each, distinct)}
    found: list[tuple[OrderNumbers, StudyValues]] = []
    for numbers in sorted(distinct, key=lambda each: (each in unclear, each.count(""))):
        study = distinct[numbers]
        own = [
            at
            for at, (_, each) in enumerate(found)
            if _agree(each.order_numbers, numbers)
        ]
        if not own:
            found.append((numbers, study))
        elif len(own) == 1 and numbers not in unclear:
            first, known = found[own[0]]
            found[own[0]] = first, _completed(known, study)
    orders = [
        Order(study, frozenset(_fitting(study.order_numbers, distinct)) | {first})
        for first, study in found
    ]
    return sorted(orders, key=lambda each: min(map(places.__getitem__, each.numbers)))


def _fits_several(numbers: OrderNumbers, others: Iterable[OrderNumbers]) -> bool:
    """Return whether `numbers` may belong to several orders.

    This is the case if two of the order numbers that may belong to the same order as
    `numbers` differ in one of the three numbers, and neither is empty.
    """
    fitting = _fitting(numbers, others)
    return any(len({*each} - {""}) > 1 for each in zip(*fitting, strict=True))


def _fitting(
    numbers: OrderNumbers, others: Iterable[OrderNumbers]
) -> list[OrderNumbers]:
    """Return those of `others` that may belong to the same order as `numbers`."""
    return [each for each in others if _agree(numbers, each)]


def _agree(numbers: OrderNumbers, other: OrderNumbers) -> bool:
    """Return whether order numbers may belong to one order."""
    shares = False
    for ours, theirs in zip(numbers, other, strict=True):
        if ours and theirs:
            if ours != theirs:
                return False
            shares = True
    return shares


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
