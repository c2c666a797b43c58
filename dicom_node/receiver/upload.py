"""Stores DICOM files that users upload.

The steps are those of the receiver (see receiver/c_store.py): a file is checked, made
durable and recorded before it is acknowledged.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from pydicom.config import IGNORE
from pydicom.uid import UID

from dicom_node.dataset.attributes import UID_PATTERN, quoted
from dicom_node.dataset.file_meta import file_head
from dicom_node.dataset.header import NegotiatedIdentity, read_header
from dicom_node.dataset.part10 import (
    Identity,
    Location,
    file_assumptions,
    identify,
    locate,
)
from dicom_node.dataset.transfer_syntaxes import DECODABLE
from dicom_node.errors import CannotUnderstandError, RefusedError
from dicom_node.instance import InstanceHeader, ReceivedInstance
from dicom_node.storage.spool import Spool, SpoolFile

CALLER = "UPLOAD"
"""The calling AE title that is recorded for an upload."""


@dataclass(frozen=True, slots=True, eq=False)
class Uploads:
    """A store for uploaded DICOM files. Safe to share between threads.

    Attributes:
        spool: Stores the instances.
        record: Records an instance and queues its analysis, as `Journal.record` does.
            The result is False if the same bytes were already stored.
        sop_classes: UIDs of the accepted SOP Classes.
        inflated_limit: Maximum size of a deflated dataset after inflation, in bytes.
    """

    spool: Spool
    record: Callable[[ReceivedInstance], bool]
    sop_classes: Collection[str]
    inflated_limit: int

    def store(self, path: Path, address: str) -> ReceivedInstance:
        """Store a file durably, record it as an instance, and queue its analysis.

        Args:
            path: A DICOM file, with or without preamble and File Meta Information.
            address: Network address from which the file was uploaded.

        Returns:
            The instance. If the same bytes were already stored, the new file in the
            spool has been removed, and the path of the instance does not exist.

        Raises:
            AnalysisError: The file is not DICOM, or its dataset cannot be located.
            RefusedError: The file is refused. The message says why.
        """
        with path.open("rb") as file:
            location = locate(file)
            found = identify(file, location, inflated_limit=self.inflated_limit)
            self._check(location, found)
            head = file_head(
                found.sop_class_uid, found.sop_instance_uid, location.transfer_syntax
            )
            file.seek(location.offset)
            spool_file = self.spool.begin(head)
            try:
                header = self._stored(file, spool_file, location, found)
                received = _received(spool_file, header, address)
                is_new = self.record(received)
            except RefusedError:
                spool_file.discard()
                raise
            finally:
                spool_file.close()
        if not is_new:
            self.spool.remove(received.id)  # the same bytes are already stored
        return received

    def _check(self, location: Location, found: Identity) -> None:
        for name, uid in (
            ("SOP Class UID (0008,0016)", found.sop_class_uid),
            ("SOP Instance UID (0008,0018)", found.sop_instance_uid),
        ):
            if not UID_PATTERN.fullmatch(uid):
                fault = "is not a UID" if uid else "is absent"
                raise CannotUnderstandError(f"{name} {fault}. Export the file again.")
        if found.sop_class_uid not in self.sop_classes:
            raise CannotUnderstandError(
                f"{UID(found.sop_class_uid, IGNORE).name} is not accepted. Send a "
                "radiograph (CR, DX, XRF, XA, or a Secondary Capture of one)."
            )
        if location.transfer_syntax not in DECODABLE:
            raise CannotUnderstandError(
                "Transfer Syntax UID (0002,0010) is "
                f"{quoted(location.transfer_syntax)}, which the node does not decode. "
                "Export the file in one that it accepts."
            )

    def _stored(
        self, file: BinaryIO, spool_file: SpoolFile, location: Location, found: Identity
    ) -> InstanceHeader:
        """Copy a dataset to the spool, make the file durable, and return the header."""
        while piece := file.read(2**20):
            spool_file.write(piece)
        identity = NegotiatedIdentity(
            sop_class_uid=found.sop_class_uid,
            sop_instance_uid=found.sop_instance_uid,
            abstract_syntax=found.sop_class_uid,
            transfer_syntax=location.transfer_syntax,
        )
        limit = self.inflated_limit
        header = read_header(
            spool_file.path, spool_file.offset, identity, inflated_limit=limit
        )
        spool_file.commit()
        assumed = *file_assumptions(location, found), *header.assumptions
        return replace(header, assumptions=assumed)


def _received(
    spool_file: SpoolFile, header: InstanceHeader, address: str
) -> ReceivedInstance:
    return ReceivedInstance(
        id=spool_file.id,
        path=spool_file.path,
        header=header,
        content_digest=spool_file.digest,
        size=spool_file.size,
        calling_ae_title=CALLER,
        calling_address=address,
        received_at=datetime.now(UTC),
    )
