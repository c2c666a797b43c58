"""Takes in a DICOM file that a person uploads, as the receiver takes what is sent.

In the receiver's order (see storing.py): checked, made durable, recorded, and only then
said to be here.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID
from pynetdicom.dsutils import create_file_meta, encode_file_meta

from dicom_node.attributes import UID_PATTERN
from dicom_node.codecs import DECODABLE
from dicom_node.errors import AnalysisError, CannotUnderstandError, RefusedError
from dicom_node.header import Announced, read_header
from dicom_node.instance import ReceivedInstance
from dicom_node.intake import PREFIX
from dicom_node.part10 import reading_dicom
from dicom_node.results.uids import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
)
from dicom_node.spool import Arrival, Spool

CALLER = "UPLOAD"
"""Whom an upload comes from, where others have a calling AE title."""

GROUP_LENGTH = 12
"""Bytes of (0002,0000) itself, which does not count itself."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a file says of its dataset.

    Attributes:
        sop_class_uid: (0002,0002).
        sop_instance_uid: (0002,0003).
        transfer_syntax_uid: (0002,0010).
        offset: Where the dataset starts, in bytes.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    offset: int


def claim_of(path: Path) -> Claim:
    """Read the File Meta Information (PS3.10 7.1). For the decoding child.

    Raises:
        AnalysisError: There is none that can be used.
    """
    with reading_dicom():
        meta = read_file_meta_info(path)
        length = meta.get("FileMetaInformationGroupLength")
        known = Claim(
            str(meta.get("MediaStorageSOPClassUID", "")),
            str(meta.get("MediaStorageSOPInstanceUID", "")),
            str(meta.get("TransferSyntaxUID", "")),
            offset=len(PREFIX) + GROUP_LENGTH + int(length or 0),
        )
        if length is None or known.transfer_syntax_uid not in DECODABLE:
            raise AnalysisError(
                "The File Meta Information (0002,xxxx) is absent or names a transfer "
                "syntax that the node does not take. Export the file again."
            )
        return known


@dataclass(frozen=True, slots=True, eq=False)
class Uploads:
    """How uploads are taken in. Safe to share between threads.

    Attributes:
        spool: Where instances go.
        record: The journal's; see there.
        sop_classes: Those that are taken.
        inflated_limit: What a deflated dataset may inflate to, in bytes.
    """

    spool: Spool
    record: Callable[[ReceivedInstance], bool]
    sop_classes: Collection[str]
    inflated_limit: int

    def take_in(self, path: Path, claim: Claim, address: str) -> ReceivedInstance:
        """Make an instance durable and have it analyzed.

        Args:
            path: Of the file.
            claim: What it says of itself.
            address: Where it was uploaded from.

        Raises:
            RefusedError: It is not taken, and why.
        """
        self._check(claim)
        arrival = self.spool.begin(PREFIX + _meta(claim))
        try:
            received = self._stored(path, claim, arrival, address)
            is_kept = self.record(received)
        except RefusedError:
            arrival.discard()
            raise
        finally:
            arrival.close()
        if not is_kept:
            self.spool.remove(received.id)  # its bytes are here already
        return received

    def _check(self, claim: Claim) -> None:
        for uid in (claim.sop_class_uid, claim.sop_instance_uid):
            if not UID_PATTERN.fullmatch(uid):
                raise CannotUnderstandError(
                    "The File Meta Information names no valid UIDs. Export the file "
                    "again."
                )
        if claim.sop_class_uid not in self.sop_classes:
            raise CannotUnderstandError(
                f"{UID(claim.sop_class_uid).name} is not taken; radiographs are (CR, "
                "DX, XRF, XA, or a Secondary Capture of one)."
            )

    def _stored(
        self, path: Path, claim: Claim, arrival: Arrival, address: str
    ) -> ReceivedInstance:
        with path.open("rb") as file:
            file.seek(claim.offset)
            while piece := file.read(2**20):
                arrival.write(piece)
        announced = Announced(
            sop_class_uid=claim.sop_class_uid,
            sop_instance_uid=claim.sop_instance_uid,
            abstract_syntax=claim.sop_class_uid,
            transfer_syntax=UID(claim.transfer_syntax_uid),
        )
        limit = self.inflated_limit
        header = read_header(
            arrival.path, arrival.offset, announced, inflated_limit=limit
        )
        arrival.keep()
        return ReceivedInstance(
            id=arrival.id,
            path=arrival.path,
            header=header,
            content_digest=arrival.digest,
            size=arrival.size,
            calling_ae_title=CALLER,
            calling_address=address,
            received_at=datetime.now(UTC),
        )


def _meta(claim: Claim) -> bytes:
    return encode_file_meta(
        create_file_meta(
            sop_class_uid=UID(claim.sop_class_uid),
            sop_instance_uid=UID(claim.sop_instance_uid),
            transfer_syntax=UID(claim.transfer_syntax_uid),
            implementation_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version=IMPLEMENTATION_VERSION_NAME,
        )
    )
