"""Answers invalid requests with a failure.

pynetdicom ignores a request that lacks a required parameter. The peer would then wait
for the response until a timeout. If a request cannot be answered,
`answer_invalid` raises NotServedError. The calling code then aborts the association.
"""

import logging

from pydicom.uid import UID
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import (
    C_CANCEL,
    C_ECHO,
    C_STORE,
    N_EVENT_REPORT,
    DimsePrimitiveType,
)

from dicom_node.dataset.attributes import loggable
from dicom_node.errors import MismatchError
from dicom_node.log.context import instance_context, log_step
from dicom_node.network.incoming_dataset import NO_UID, IncomingDataset
from dicom_node.network.presentation_contexts import STORAGE_COMMITMENT, VERIFICATION
from dicom_node.network.storage_commitment import (
    INVALID_OBJECT_INSTANCE,
    NO_SUCH_EVENT_TYPE,
    NO_SUCH_SOP_CLASS,
)
from dicom_node.outcome import LONGEST_COMMENT

logger = logging.getLogger(__name__)

MEDIUM = 0  # PS3.7 9.3.1.1
OTHER_CLASS = (
    "Affected SOP Class UID (0000,0002) is not that of the presentation context. "
    "Send the instance in a context of its own SOP Class."
)


class NotServedError(Exception):
    """The request cannot be answered, so the association must be aborted."""


def answer_invalid(
    association: Association,
    request: DimsePrimitiveType,
    context_id: int,
    caller: str,
) -> bool:
    """Answer a request with a failure if the request is invalid.

    Args:
        association: The association on which the request came.
        request: The request. If the Priority of a C-STORE is absent, this function sets
            it to medium. The SOP Class UID of a C-ECHO is set to Verification.
        context_id: ID of the presentation context of the request.
        caller: The peer as the log names it, such as its AE title and address.

    Returns:
        True if the request was answered with a failure. False if the request is valid,
        and pynetdicom can serve it.

    Raises:
        NotServedError: The request cannot be answered. The message says why.
    """
    contexts = {each.context_id: each for each in association.accepted_contexts}
    if context_id not in contexts:
        problem = f"a message came in presentation context {context_id}"
        raise NotServedError(f"{problem}, which was not accepted")
    name = type(request).__name__.replace("_", "-")
    if isinstance(request, C_CANCEL):  # pynetdicom itself accepts the first ten
        raise NotServedError(f"too many {name} requests came")
    if request.MessageID is None:
        raise NotServedError("a response came without a request")
    sop_class = contexts[context_id].abstract_syntax
    if isinstance(request, C_STORE):
        return _refuse_store(association, request, context_id, sop_class, caller)
    if isinstance(request, N_EVENT_REPORT):
        return _refuse_report(association, request, context_id, sop_class, caller)
    if isinstance(request, C_ECHO):
        request.AffectedSOPClassUID = VERIFICATION  # PS3.7 9.1.5: the only one
        return False
    raise NotServedError(f"a {name} request came, which is not served")


def _refuse_store(
    association: Association,
    request: C_STORE,
    context_id: int,
    sop_class: UID | None,
    caller: str,
) -> bool:
    if request.Priority is None:
        request.Priority = MEDIUM
    if not request.is_valid_request:
        comment = NO_UID
    elif request.AffectedSOPClassUID != sop_class:
        comment = OTHER_CLASS
    else:
        return False
    size = 0
    if isinstance(request.DataSet, IncomingDataset):
        size = request.DataSet.received
        request.DataSet.release()
    with instance_context(loggable(str(request.AffectedSOPInstanceUID)), "-"):
        details = f"from {caller}, {size} bytes: {comment}"
        log_step(logger, "refused", details, level=logging.WARNING)
    response = C_STORE()
    response.MessageIDBeingRespondedTo = request.MessageID
    response.Status = MismatchError.status
    response.ErrorComment = comment[:LONGEST_COMMENT]  # type: ignore[assignment]
    association.dimse.send_msg(response, context_id)
    return True


def _refuse_report(
    association: Association,
    request: N_EVENT_REPORT,
    context_id: int,
    sop_class: UID | None,
    caller: str,
) -> bool:
    if {request.AffectedSOPClassUID, sop_class} != {STORAGE_COMMITMENT}:
        status, attribute = NO_SUCH_SOP_CLASS, "Affected SOP Class UID (0000,0002)"
    elif request.AffectedSOPInstanceUID is None:
        status = INVALID_OBJECT_INSTANCE
        attribute = "Affected SOP Instance UID (0000,1000)"
    elif request.EventTypeID is None:
        status, attribute = NO_SUCH_EVENT_TYPE, "Event Type ID (0000,1002)"
    else:
        return False
    problem = f"{attribute} is absent or wrong"
    logger.warning("Refused a report of %s: %s", caller, problem)
    response = N_EVENT_REPORT()
    response.MessageIDBeingRespondedTo = request.MessageID
    response.Status = status
    association.dimse.send_msg(response, context_id)
    return True
