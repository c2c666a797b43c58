"""Reads the response of a DICOMweb service, and derives the outcome of each object.

delivery/stow.py sends the requests. A Store Instances Response Module (PS3.18 Annex I)
lists the objects that were stored and those that failed. The HTTP status (PS3.18 table
10.5.3-1) applies to all objects that are not listed. After an HTTP status of success, a
list that lacks an object does not confirm that the object is stored. Then the object is
sent again.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from dicom_node.outcome import (
    DUPLICATE_SOP_INSTANCE,
    Outcome,
    Verdict,
    printable,
    status_text,
    verdict_of,
)

JSON = "application/dicom+json"
# The media types of responses that come from a service itself. XML is not requested and
# not read, so only the HTTP status of an XML response counts. A response of any other
# type comes from a proxy or is a login page.
READABLE_MEDIA_TYPES = frozenset({JSON, "application/json"})
SERVICE_MEDIA_TYPES = READABLE_MEDIA_TYPES | {
    "application/dicom+xml",
    "application/xml",
    "text/xml",
}

REFERENCED_SOP_SEQUENCE = "00081199"
FAILED_SOP_SEQUENCE = "00081198"
FAILURE_REASON = "00081197"
WARNING_REASON = "00081196"
REFERENCED_SOP_INSTANCE_UID = "00081155"

# Failure reasons which say that the service already has the object. Each attempt sends
# the same bytes, so the object is stored. 0xB00E is a private code.
ALREADY_STORED = frozenset({DUPLICATE_SOP_INSTANCE, 0xB00E})

# HTTP statuses of problems that are temporary, or that an administrator of the service
# can solve.
PASSING = frozenset({401, 403, 407, 408, 425, 429})
REDIRECTS = range(300, 400)
SERVER_ERRORS = range(500, 600)
ADVICE = {
    404: "; check that url is the base of the DICOMweb service",
    405: "; check that url is the base of the DICOMweb service",
    413: "; raise the limit of the service on the size of a request",
}


@dataclass(frozen=True, slots=True)
class StowResponse:
    """An HTTP response.

    Attributes:
        code: Status code.
        reason: Reason phrase of the server.
        media_type: Media type of the payload, without parameters.
        content: The payload.
    """

    code: int
    reason: str
    media_type: str
    content: bytes

    @property
    def is_from_service(self) -> bool:
        """Whether the service itself, not a proxy, may have sent this response."""
        return self.media_type in SERVICE_MEDIA_TYPES or not (
            self.content or self.media_type
        )

    def __str__(self) -> str:
        """Return the status line for the journal and the web pages.

        It quotes the reason phrase of the server, which may contain any text, such as
        the name of the patient. Log `standard_status` instead.
        """
        return f"HTTP {self.code} {printable(self.reason)}".rstrip()

    @property
    def standard_status(self) -> str:
        """The status with the reason phrase of RFC 9110, for the log.

        It omits the reason phrase of the server, which may contain any text.
        """
        known = {each.value: each.phrase for each in HTTPStatus}
        return f"HTTP {self.code} {known.get(self.code, '')}".rstrip()


def object_outcomes(
    uids: Iterable[str], response: StowResponse, credentials_advice: str
) -> dict[str, Outcome]:
    """Return the outcome of each object in a request, by SOP Instance UID.

    Args:
        uids: SOP Instance UIDs of the objects.
        response: The response to the request.
        credentials_advice: Advice for a user if the service refuses our credentials.
    """
    listed = dict(_listed(response))
    other = _unlisted(response, credentials_advice)
    return {uid: listed.get(uid, other) for uid in uids}


def search_outcome(response: StowResponse, credentials_advice: str) -> Outcome:
    """Return the outcome of a search that tests the connection.

    Returns:
        An outcome with the verdict STORED if a DICOMweb service responded with success.
        Otherwise the comment of the outcome gives the reason.
    """
    if response.code in {200, 204} and response.is_from_service:
        return Outcome(Verdict.STORED, None)
    return _unlisted(response, credentials_advice)


def _unlisted(response: StowResponse, credentials_advice: str) -> Outcome:
    """Return the outcome of the objects that a response does not list.

    The outcome depends on the HTTP status. After status 200, it also depends on the
    media type and on whether there is a payload.
    """
    code = response.code
    if code == HTTPStatus.OK and not response.is_from_service:
        media_type = printable(response.media_type) or "something"
        mismatch = "which is not a response of a DICOMweb service"
        return Outcome(
            Verdict.RETRY,
            None,
            f"{response} with {media_type}, {mismatch}",
            f"{response.standard_status} with another media type, {mismatch}",
        )
    if code == HTTPStatus.OK and not (
        response.content and response.media_type in READABLE_MEDIA_TYPES
    ):
        return Outcome(Verdict.STORED, None)
    if code < REDIRECTS.start:
        return _unclear(
            response,
            Verdict.RETRY_BRIEFLY,
            " does not state whether the object was stored",
        )
    advice = ADVICE.get(code, "")
    if code in {401, 403} or code in REDIRECTS:
        advice = f"; {credentials_advice}{advice}"
    passes = code in PASSING or code in REDIRECTS or code in SERVER_ERRORS
    return _unclear(response, Verdict.RETRY if passes else Verdict.REFUSED, advice)


def _unclear(response: StowResponse, verdict: Verdict, more: str) -> Outcome:
    return Outcome(
        verdict, None, f"{response}{more}", f"{response.standard_status}{more}"
    )


def _listed(response: StowResponse) -> Iterator[tuple[str, Outcome]]:
    """Yield UID and outcome of each entry in the Store Instances Response Module.

    If the response has no such module, nothing is yielded.
    """
    if (
        response.code not in {200, 202, 409}
        or response.media_type not in READABLE_MEDIA_TYPES
    ):
        return
    try:
        module = json.loads(response.content)
    except (ValueError, RecursionError):
        return
    module = module[0] if isinstance(module, list) and module else module
    for item in _values(module, REFERENCED_SOP_SEQUENCE):
        yield _uid(item), _stored(_number(item, WARNING_REASON))
    for item in _values(module, FAILED_SOP_SEQUENCE):
        yield _uid(item), _failed(_number(item, FAILURE_REASON))


def _stored(warning: int | None) -> Outcome:
    return Outcome(Verdict.STORED, warning or 0, status_text(warning or 0))


def _failed(reason: int | None) -> Outcome:
    """Return the outcome of an object that was not stored.

    Args:
        reason: The Failure Reason, which has the values of a C-STORE status (PS3.18
            I.2.2); None if there is no reason.
    """
    if reason is None:
        text = "not stored, without a reason"
        return Outcome(Verdict.RETRY_BRIEFLY, None, text)
    verdict = verdict_of(reason)
    # A failure with a status of success contradicts itself.
    if verdict is Verdict.STORED and reason not in ALREADY_STORED:
        verdict = Verdict.RETRY_BRIEFLY
    return Outcome(verdict, reason, status_text(reason) or "not stored, with 0x0000")


def _values(item: Any, tag: str) -> list[Any]:  # noqa: ANN401 - any JSON value
    """Return the values of an attribute of the DICOM JSON Model (PS3.18 F.2).

    If the attribute is absent or malformed, the list is empty.
    """
    attribute = item.get(tag) if isinstance(item, dict) else None
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values if isinstance(values, list) else []


def _uid(item: Any) -> str:  # noqa: ANN401
    return "".join(map(str, _values(item, REFERENCED_SOP_INSTANCE_UID)[:1]))


def _number(item: Any, tag: str) -> int | None:  # noqa: ANN401
    """Return the lowest 16 bits of the first value of an attribute.

    Return None if there is no value, or if the first value is not a number.
    """
    for value in _values(item, tag)[:1]:
        with suppress(ValueError, TypeError, OverflowError):
            return int(value) & 0xFFFF
    return None
