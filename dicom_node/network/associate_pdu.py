"""Rewrites A-ASSOCIATE (RQ, AC, RJ) and A-ABORT PDUs before pynetdicom reads them.

PS3.8 9.3.1 tells a receiver to ignore unknown items, and not to test reserved fields.
pynetdicom aborts the association instead. pynetdicom also aborts it if an AE title is
padded with NUL, if an Implementation Version Name has more than 16 characters, or if a
presentation context ID is even. DCMTK and Orthanc accept all such PDUs.

The functions of this module divide a PDU by the lengths of its items. They rewrite the
items that the node uses, so that pynetdicom accepts them. They leave out invalid
sub-items, and refuse invalid presentation contexts. They raise MalformedPduError only
if the PDU is too short, or if an item reaches beyond the end of the PDU.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from dicom_node.dataset.attributes import STANDARD_UID_LENGTH, UID_PATTERN
from dicom_node.text import replace_unprintable

# PS3.8 9.3: PDU types, and the types of items and sub-items.
ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, ABORT = 0x01, 0x02, 0x03, 0x07
PDU_NAMES: Mapping[int, str] = {
    ASSOCIATE_RQ: "A-ASSOCIATE-RQ",
    ASSOCIATE_AC: "A-ASSOCIATE-AC",
    ASSOCIATE_RJ: "A-ASSOCIATE-RJ",
    0x04: "P-DATA-TF",
    0x05: "A-RELEASE-RQ",
    0x06: "A-RELEASE-RP",
    ABORT: "A-ABORT",
}
_APPLICATION_CONTEXT, _USER_INFORMATION = 0x10, 0x50
_CONTEXT_RQ, _CONTEXT_AC, _ABSTRACT_SYNTAX, _TRANSFER_SYNTAX = 0x20, 0x21, 0x30, 0x40
_MAXIMUM_LENGTH, _ROLE_SELECTION = 0x51, 0x54

DICOM_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"  # PS3.7 A.2.1
DEFAULT_TRANSFER_SYNTAX = b"1.2.840.10008.1.2"  # PS3.5 10.1

# Results of a presentation context (PS3.8 table 9-18).
ACCEPTED = 0
NO_REASON = 2
ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
TRANSFER_SYNTAXES_NOT_SUPPORTED = 4

PDU_HEAD = 6  # type, reserved, length of the bytes that follow (PS3.8 9.3.1)
_ITEM_HEAD = 4
_FIXED = 68  # version, reserved, two AE titles, reserved (PS3.8 table 9-11)
_TITLE = 16

# Bounds in bytes of the Maximum Length that a peer announces (PS3.8 D.1). A message in
# PDUs of less than 128 bytes would be too slow. With PDUs of more than 64 kB, the
# progress on a slow line would be noticed too rarely. If the peer announces 0, which
# means no limit, LARGEST_PDU is used. If the peer announces no length, USUAL_PDU is
# used.
SMALLEST_PDU, LARGEST_PDU, USUAL_PDU = 128, 65_536, 16_384

# Maximum number of transfer syntaxes of one presentation context. If several items have
# the same context ID, their transfer syntaxes are counted together.
MOST_SYNTAXES = 512


class MalformedPduError(ValueError):
    """The PDU cannot be divided into its items. The error text says why."""


@dataclass(frozen=True, slots=True)
class AssociateRequest:
    """An A-ASSOCIATE-RQ as the node understands it.

    Attributes:
        pdu: The rewritten request for pynetdicom, without refused contexts.
        calling: The calling AE title as printable text; may be empty.
        called: The called AE title as printable text; may be empty.
        has_version_1: Whether bit 0 of the protocol version is set (PS3.8 9.3.2).
        application_context: Application Context Name; empty if missing or invalid.
        refused: The result (PS3.8 table 9-18) and the reason as text for each refused
            presentation context, by its ID.
        echoed: The fields that the response repeats unchanged (PS3.8 table 9-17).
    """

    pdu: bytes
    calling: str
    called: str
    has_version_1: bool
    application_context: str
    refused: Mapping[int, tuple[int, str]]
    echoed: bytes


def read_request(pdu: bytes) -> AssociateRequest:
    """Return the content of an A-ASSOCIATE-RQ PDU, and a rewritten PDU for pynetdicom.

    Raises:
        MalformedPduError: The PDU is too short, or an item reaches beyond the end of
            the PDU.
    """
    fixed, items = _parts(pdu)
    contexts, refused = _proposed(items)
    calling, called = fixed[4 + _TITLE : 4 + 2 * _TITLE], fixed[4 : 4 + _TITLE]
    body = [
        _fixed_fields(_ascii_title(called), _ascii_title(calling)),
        _item(_APPLICATION_CONTEXT, DICOM_APPLICATION_CONTEXT.encode()),
        *(each.encoded() for each in contexts),
        _user_information(items, *_roles(items, contexts)),
    ]
    names = [_uid(value) for kind, value in items if kind == _APPLICATION_CONTEXT]
    return AssociateRequest(
        pdu=_pdu(ASSOCIATE_RQ, b"".join(body)),
        calling=_title(calling),
        called=_title(called),
        has_version_1=bool(fixed[1] & 1),
        application_context=(names or [""])[0],
        refused=refused,
        echoed=fixed[4:],
    )


def complete_accept(pdu: bytes, request: AssociateRequest) -> bytes:
    """Return pynetdicom's A-ASSOCIATE-AC with the parts that pynetdicom left out.

    Args:
        pdu: The A-ASSOCIATE-AC that pynetdicom wrote as the response to `request.pdu`.
        request: The request of the peer.

    Returns:
        The PDU to send. It also has the results of the refused contexts, and the fields
        of the request that the response repeats unchanged (PS3.8 9.3.3).
    """
    fixed, items = _parts(pdu)
    *before, user_information = (_item(*each) for each in items)
    refused = (_result(n, result) for n, (result, _) in request.refused.items())
    content = (fixed[:4], request.echoed, *before, *refused, user_information)
    return _pdu(ASSOCIATE_AC, b"".join(content))


def read_accept(pdu: bytes, proposed: Mapping[int, Sequence[str]]) -> bytes:
    """Return an A-ASSOCIATE-AC PDU, rewritten for pynetdicom.

    Args:
        pdu: The response to a request of the node.
        proposed: The transfer syntaxes that the node proposed, by presentation context
            ID.

    Returns:
        The rewritten PDU. Contexts that the node did not propose are left out. An
        accepted context is marked as refused if its transfer syntax cannot be
        determined. A context with several different results is marked as refused, too.

    Raises:
        MalformedPduError: The PDU is too short, or an item reaches beyond the end of
            the PDU.
    """
    _, items = _parts(pdu)
    results: dict[int, set[tuple[int, str]]] = {}
    for kind, value in items:
        if kind == _CONTEXT_AC and len(value) >= _ITEM_HEAD and value[0] in proposed:
            result = _negotiated(value, proposed[value[0]])
            results.setdefault(value[0], set()).add(result)
    contexts = (
        _result(number, *(each.pop() if len(each) == 1 else (NO_REASON, "")))
        for number, each in results.items()
    )
    body = [
        _fixed_fields(bytes(_TITLE), bytes(_TITLE)),
        _item(_APPLICATION_CONTEXT, DICOM_APPLICATION_CONTEXT.encode()),
        *contexts,
        _user_information(items),
    ]
    return _pdu(ASSOCIATE_AC, b"".join(body))


def read_rejection(pdu: bytes) -> bytes:
    """Return an A-ASSOCIATE-RJ PDU with only values that PS3.8 9.3.4 defines.

    Any other value is replaced by 1. For the result, 1 means rejected-permanent; for
    the source, service-user; for the reason, no-reason-given.
    """
    _, result, source, reason = _four(pdu)
    known = (
        result if result in {1, 2} else 1,
        source if source in {1, 2, 3} else 1,
        reason if reason in {1, 2, 3, 7} else 1,
    )
    return _pdu(ASSOCIATE_RJ, bytes((0, *known)))


def read_abort(pdu: bytes) -> bytes:
    """Return an A-ABORT PDU with only values that PS3.8 9.3.8 defines.

    Any other source or reason is replaced by 0. If the source is 0 (service-user), the
    reason is replaced by 0, too.
    """
    *_, source, reason = _four(pdu)
    source = source if source in {0, 2} else 0
    reason = reason if source and reason in {1, 2, 4, 5, 6} else 0
    return _pdu(ABORT, bytes((0, 0, source, reason)))


def pdu_name(kind: int) -> str:
    """Return the name of a PDU type, for error texts and the log."""
    return PDU_NAMES.get(kind, f"a PDU of the unknown type 0x{kind:02X}")


@dataclass(slots=True)
class _Proposal:
    """The proposal of a presentation context: all items with one context ID."""

    number: int  # the context ID
    abstract_syntaxes: set[str] = field(default_factory=set)
    transfer_syntaxes: dict[str, None] = field(default_factory=dict)  # in order
    is_whole: bool = True  # no sub-item reaches beyond the end of its item

    def add(self, content: bytes) -> None:
        try:
            for kind, value in _divided(content):
                uid = _uid(value)
                if kind == _ABSTRACT_SYNTAX:
                    self.abstract_syntaxes.add(uid)
                elif kind == _TRANSFER_SYNTAX and uid:
                    self.transfer_syntaxes[uid] = None
        except MalformedPduError:
            self.is_whole = False

    def refusal(self) -> tuple[int, str] | None:
        """Return the result and the reason if the context is invalid; else None."""
        if not self.is_whole:
            return NO_REASON, "a sub-item reaches beyond its end"
        if len(self.abstract_syntaxes) > 1:
            return NO_REASON, "it has several abstract syntaxes"
        if not any(self.abstract_syntaxes):
            return ABSTRACT_SYNTAX_NOT_SUPPORTED, "it has no valid abstract syntax"
        if len(self.transfer_syntaxes) > MOST_SYNTAXES:
            return NO_REASON, f"it has more than {MOST_SYNTAXES} transfer syntaxes"
        if not self.transfer_syntaxes:
            return TRANSFER_SYNTAXES_NOT_SUPPORTED, "it has no valid transfer syntax"
        return None

    def encoded(self) -> bytes:
        abstract = (_item(_ABSTRACT_SYNTAX, a.encode()) for a in self.abstract_syntaxes)
        syntaxes = (_item(_TRANSFER_SYNTAX, t.encode()) for t in self.transfer_syntaxes)
        head = bytes((self.number, 0, 0, 0))
        return _item(_CONTEXT_RQ, b"".join((head, *abstract, *syntaxes)))


def _proposed(
    items: Iterable[tuple[int, bytes]],
) -> tuple[list[_Proposal], dict[int, tuple[int, str]]]:
    """Return the contexts to negotiate, and the refusals of invalid contexts by ID."""
    proposals: dict[int, _Proposal] = {}
    for kind, value in items:
        if kind == _CONTEXT_RQ and value:
            proposal = proposals.setdefault(value[0], _Proposal(value[0]))
            proposal.add(value[_ITEM_HEAD:])
    refused = {n: reason for n, each in proposals.items() if (reason := each.refusal())}
    return [each for n, each in proposals.items() if n not in refused], refused


def _negotiated(value: bytes, proposed: Sequence[str]) -> tuple[int, str]:
    """Return the result and transfer syntax of a context in an A-ASSOCIATE-AC.

    The transfer syntax is empty if the context is not accepted.

    Args:
        value: The value of the presentation context item.
        proposed: The transfer syntaxes that the node proposed for this context.
    """
    result = value[2]
    if result != ACCEPTED:
        known = result <= TRANSFER_SYNTAXES_NOT_SUPPORTED
        return result if known else NO_REASON, ""
    try:
        items = list(_divided(value[_ITEM_HEAD:]))
    except MalformedPduError:
        return NO_REASON, ""
    named = {_uid(each) for kind, each in items if kind == _TRANSFER_SYNTAX} - {""}
    # If only one transfer syntax was proposed, the response need not name it.
    found = named if len(named) == 1 else (named or set(proposed)) & set(proposed)
    if len(found) != 1:
        return TRANSFER_SYNTAXES_NOT_SUPPORTED, ""
    return ACCEPTED, found.pop()


def _result(number: int, result: int, syntax: str = "") -> bytes:
    """Return the item of an A-ASSOCIATE-AC for the context with the ID `number`.

    The item always has a transfer syntax. If the context is not accepted, the transfer
    syntax has no meaning (PS3.8 9.3.3.2).
    """
    chosen = _item(_TRANSFER_SYNTAX, syntax.encode() or DEFAULT_TRANSFER_SYNTAX)
    return _item(_CONTEXT_AC, bytes((number, 0, result, 0)) + chosen)


def _user_information(items: Iterable[tuple[int, bytes]], *more: bytes) -> bytes:
    """Return a user information item: the peer's Maximum Length, and the items `more`.

    A Maximum Length below SMALLEST_PDU or above LARGEST_PDU is replaced by the bound.
    If the peer announced 0, which means no limit, LARGEST_PDU is used. If the peer
    announced no Maximum Length, USUAL_PDU is used.
    """
    lengths = [value[:4] for value in _user_items(items, _MAXIMUM_LENGTH)]
    whole = [int.from_bytes(each, "big") for each in lengths if len(each) == 4]  # noqa: PLR2004 - bytes
    announced = whole[0] if whole else USUAL_PDU
    bounded = max(min(announced or LARGEST_PDU, LARGEST_PDU), SMALLEST_PDU)
    maximum = _item(_MAXIMUM_LENGTH, struct.pack(">I", bounded))
    return _item(_USER_INFORMATION, b"".join((maximum, *more)))


def _roles(
    items: Iterable[tuple[int, bytes]], contexts: Iterable[_Proposal]
) -> list[bytes]:
    """Return the items of the valid role selections (PS3.7 D.3.3.4).

    Only role selections for the SOP Classes that `contexts` propose are valid.
    """
    proposed = {uid for each in contexts for uid in each.abstract_syntaxes}
    roles: dict[str, bytes] = {}
    for value in _user_items(items, _ROLE_SELECTION):
        length = int.from_bytes(value[:2], "big")
        uid, selected = _uid(value[2 : 2 + length]), value[2 + length :]
        if uid in proposed and len(selected) == 2 and max(selected) <= 1:  # noqa: PLR2004 - SCU, SCP
            content = len(uid).to_bytes(2, "big") + uid.encode() + selected
            roles[uid] = _item(_ROLE_SELECTION, content)
    return list(roles.values())


def _user_items(items: Iterable[tuple[int, bytes]], wanted: int) -> Iterator[bytes]:
    """Yield the value of each user information sub-item of the type `wanted`.

    If a sub-item reaches beyond the end of its item, this sub-item and the following
    sub-items of the item are ignored.
    """
    for kind, content in items:
        if kind == _USER_INFORMATION:
            with suppress(MalformedPduError):
                yield from (v for each, v in _divided(content) if each == wanted)


def _parts(pdu: bytes) -> tuple[bytes, list[tuple[int, bytes]]]:
    content = pdu[PDU_HEAD:]
    if len(content) < _FIXED:
        found = f"{len(content)} bytes long, at least {_FIXED} are needed"
        raise MalformedPduError(f"{pdu_name(pdu[0])} is {found}")
    try:
        return content[:_FIXED], list(_divided(content[_FIXED:]))
    except MalformedPduError as error:
        raise MalformedPduError(f"{pdu_name(pdu[0])} has {error}") from None


def _divided(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the value of each item in the bytes `content`.

    If fewer bytes than the head of an item are left at the end, they are ignored.

    Raises:
        MalformedPduError: An item reaches beyond the end of `content`.
    """
    at = 0
    while at + _ITEM_HEAD <= len(content):
        kind, length = content[at], int.from_bytes(content[at + 2 : at + 4], "big")
        at += _ITEM_HEAD
        if at + length > len(content):
            found = f"{length} bytes, {len(content) - at} are left"
            raise MalformedPduError(f"an item of type 0x{kind:02X} of {found}")
        yield kind, content[at : at + length]
        at += length


def _uid(value: bytes) -> str:
    """Return a UID as text; empty if it is invalid, or longer than PS3.5 9.1 allows.

    The UID ends at the first NUL, as in a C string.
    """
    text = value.partition(b"\0")[0].strip(b" ").decode("ascii", "replace")
    is_valid = len(text) <= STANDARD_UID_LENGTH and UID_PATTERN.fullmatch(text)
    return text if is_valid else ""


def _title(field: bytes) -> str:
    """Return an AE title as printable text.

    The title ends at the first NUL, as in a C string. PS3.8 allows only ASCII. Other
    bytes are read as UTF-8 if possible, else as Latin-1. Characters that cannot be
    printed are replaced.
    """
    content = field.partition(b"\0")[0].strip(b" ")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return replace_unprintable(text)


def _ascii_title(field: bytes) -> bytes:
    """Return an AE title as 16 bytes that pynetdicom accepts.

    Backslashes and characters beyond ASCII become question marks, and an empty title
    becomes one question mark.
    """
    title = _title(field).encode("ascii", "replace").replace(b"\\", b"?")
    return (title or b"?").ljust(_TITLE)


def _fixed_fields(called: bytes, calling: bytes) -> bytes:
    return b"\0\1\0\0" + called + calling + bytes(32)


def _four(pdu: bytes) -> bytes:
    return pdu[PDU_HEAD : PDU_HEAD + 4].ljust(4, b"\0")


def _item(kind: int, value: bytes) -> bytes:
    return bytes((kind, 0)) + len(value).to_bytes(2, "big") + value


def _pdu(kind: int, content: bytes) -> bytes:
    return bytes((kind, 0)) + len(content).to_bytes(4, "big") + content
