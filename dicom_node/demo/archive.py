"""A small archive: a Storage SCP that stores the instances it receives.

The archive is used as a PACS in the demo and in tests. Each instance is stored as a
Part 10 file in the archive's folder. If the same bytes are sent again under the same
SOP Instance UID and transfer syntax, they are not stored again. The archive chooses the
file names. For each C-STORE, one line is written to `log.jsonl` before the response.
Names and other patient data are not logged.
"""

import argparse
import hashlib
import json
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pynetdicom import evt
from pynetdicom.dsutils import encode_file_meta, split_dataset

from dicom_node.demo.archive_server import listen, stop_listening
from dicom_node.log.format import configure_logging
from dicom_node.network.pynetdicom_adapter import disable_event_logging
from dicom_node.outcome import Verdict, verdict_of
from dicom_node.runtime.process import Stop
from dicom_node.storage.durable_files import write_durably

SUCCESS = 0x0000
LOG_NAME = "log.jsonl"
STUDY_INSTANCE_UID = 0x0020000D


@dataclass(frozen=True, slots=True)
class Stored:
    """A line of the log, about one C-STORE.

    Attributes:
        time: Time just before the response: ISO 8601, UTC.
        calling_ae_title: AE title of the sender.
        sop_class_uid: SOP Class UID of the request.
        sop_instance_uid: SOP Instance UID of the request.
        study_instance_uid: Study Instance UID of the dataset; empty if absent or
            unreadable.
        transfer_syntax_uid: Transfer Syntax UID of the presentation context.
        digest: SHA-256 of the dataset's bytes as sent, hexadecimal.
        path: Name of the file in the archive's folder that contains the instance. Empty
            if the instance was not stored.
        status: Status of the response.
    """

    time: str
    calling_ae_title: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    digest: str
    path: str
    status: int


# Returns the status of a C-STORE response. The function may also wait, abort the
# association or raise, so that tests can simulate a faulty peer.
StoreStatus = Callable[[evt.Event], int]
OnStored = Callable[[Stored], None]


class Archive:
    """A running archive.

    Attributes:
        directory: Folder of the files and the log.
        port: Port that the archive listens on.
    """

    port: int

    def __init__(
        self, directory: Path, on_stored: OnStored | None, respond: StoreStatus | None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._log_file = directory / LOG_NAME
        self._log_file.touch()
        self._on_stored = on_stored
        self._respond = respond
        self._changed = threading.Condition()
        lines = self._log_file.read_text("ascii").splitlines()
        self._log = [Stored(**json.loads(line)) for line in lines]
        self._paths = {self._key(each): each.path for each in self._log if each.path}

    @property
    def log(self) -> tuple[Stored, ...]:
        """The lines of the log, in order, including those of earlier runs."""
        with self._changed:
            return tuple(self._log)

    def wait(self, count: int, timeout_s: float) -> tuple[Stored, ...]:
        """Wait until the log has at least `count` lines, and return the log.

        Raises:
            TimeoutError: The log has fewer lines after `timeout_s` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._log) >= count, timeout_s):
                raise TimeoutError(
                    f"{len(self._log)} of {count} instances after {timeout_s:g} s"
                )
            return tuple(self._log)

    def serve(self, ae_title: str, host: str, port: int) -> None:
        """Start to listen in background threads, and set `port`."""
        self._server = listen(ae_title, (host, port), self._on_store)
        self.port = self._server.server_address[1]

    def stop(self) -> None:
        """Stop the archive, and abort its open associations."""
        stop_listening(self._server)

    def _on_store(self, event: evt.Event) -> int:
        status = self._respond(event) if self._respond else SUCCESS
        is_stored = verdict_of(status) is Verdict.STORED
        meta, content = event.file_meta, _dataset_bytes(event)
        file = b"\0" * 128 + b"DICM" + encode_file_meta(meta) + content
        stored = Stored(
            time=datetime.now(UTC).isoformat(),
            calling_ae_title=event.assoc.requestor.ae_title,
            sop_class_uid=str(meta.MediaStorageSOPClassUID),
            sop_instance_uid=str(meta.MediaStorageSOPInstanceUID),
            study_instance_uid=_study(file),
            transfer_syntax_uid=str(meta.TransferSyntaxUID),
            digest=hashlib.sha256(content).hexdigest(),
            path=f"{uuid.uuid4().hex}.dcm" if is_stored else "",
            status=status,
        )
        self._store(stored, file)
        return status

    def _store(self, stored: Stored, file: bytes) -> None:
        with self._changed:
            if stored.path:
                key = self._key(stored)
                if key not in self._paths:
                    write_durably(self.directory / stored.path, file, mode=0o666)
                    self._paths[key] = stored.path
                stored = replace(stored, path=self._paths[key])
            with self._log_file.open("a", encoding="ascii") as log:
                log.write(json.dumps(asdict(stored)) + "\n")
            self._log.append(stored)
            self._changed.notify_all()
        if self._on_stored:
            self._on_stored(stored)

    @staticmethod
    def _key(stored: Stored) -> tuple[str, str, str]:
        return stored.sop_instance_uid, stored.transfer_syntax_uid, stored.digest


def start_archive(  # noqa: PLR0913 - an address, and two hooks for tests
    directory: Path,
    *,
    ae_title: str = "ARCHIVE",
    host: str = "127.0.0.1",
    port: int = 0,
    on_stored: OnStored | None = None,
    respond: StoreStatus | None = None,
) -> Archive:
    """Start an archive, which runs until its `stop` is called.

    The archive accepts any Storage SOP class with any proposed transfer syntax, and
    Verification.

    Args:
        directory: Folder for the files and the log. The files and the log of earlier
            runs are kept, and `Archive.log` includes them.
        ae_title: AE title of the archive. Associations that call another title are
            accepted, too.
        host: Address to listen on.
        port: Port to listen on; 0 is any free port.
        on_stored: Called for each C-STORE after it is logged, and before its response
            is sent. It is called from the thread of the association.
        respond: Returns the status of the response to each C-STORE. If the status is a
            failure, the instance is not stored. If None, each response is a success.
    """
    disable_event_logging()  # datasets and names must not be logged
    archive = Archive(directory, on_stored, respond)
    archive.serve(ae_title, host, port)
    return archive


def _dataset_bytes(event: evt.Event) -> bytes:
    """Return the bytes of the dataset as sent.

    pynetdicom keeps the bytes in memory or in a file, depending on its configuration.
    """
    path = event.dataset_path
    if path is None:
        return event.encoded_dataset(include_meta=False)
    _, offset = split_dataset(path)
    return path.read_bytes()[offset:]


def _study(file: bytes) -> str:
    try:
        dataset = dcmread(
            BytesIO(file), stop_before_pixels=True, specific_tags=[STUDY_INSTANCE_UID]
        )
    except Exception:  # noqa: BLE001 - invalid bytes may cause any exception
        return ""
    if STUDY_INSTANCE_UID not in dataset:
        return ""
    value = dataset.get_item(STUDY_INSTANCE_UID).value
    return bytes(value or b"").decode("ascii", "replace").strip(" \0")


def main(arguments: list[str] | None = None) -> int:
    """Run an archive until SIGTERM or SIGINT, then return the exit status 0."""
    parser = argparse.ArgumentParser(
        prog="fracture-node archive",
        description="Runs a small archive, as a PACS for tests.",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path("archive"),
        help="folder to write to; default: archive",
    )
    parser.add_argument(
        "--ae-title", default="ARCHIVE", help="its AE title; default: ARCHIVE"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; default: 127.0.0.1, this machine only",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=11113,
        help="port to listen on; 0 is any free port; default: 11113",
    )
    options = parser.parse_args(arguments)
    configure_logging("archive")
    stop = Stop()
    archive = start_archive(
        options.directory,
        ae_title=options.ae_title,
        host=options.host,
        port=options.port,
    )
    address = f"{options.ae_title}@{options.host}:{archive.port}"
    folder = options.directory.absolute()
    sys.stdout.write(f"{address} stores received instances in {folder}\n")
    sys.stdout.flush()
    stop.ready(0)
    stop.wait()
    archive.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
