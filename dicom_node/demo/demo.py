"""Demonstrates the node: sends it two phantoms, and shows their results.

The command starts the node, a small archive and a small HL7 server. It sends the
phantoms of a broken and of a whole bone by C-STORE, and waits until the archive has
their results. It prints the HL7 message about the examination of the broken bone.
Without --once, the node then runs until Ctrl-C.
"""

import argparse
import errno
import socket
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from config.destinations import Address
from config.settings import Settings, load
from dicom_node.commands.node import DRAIN_S, Node
from dicom_node.delivery.c_store import send
from dicom_node.demo.archive import Archive, Stored, start_archive
from dicom_node.demo.hl7_server import Hl7Server, accept
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.outcome import Verdict
from dicom_node.queries.history import History
from dicom_node.runtime.process import begin_role
from dicom_node.storage.database import open_engine
from dicom_node.storage.records import InstanceRecord
from inference.drawing.caption import percent
from inference.finding import OperatingPoint
from inference.phantom.long_bone import draw_phantom

TIMEOUT_S = 120.0
POLL_S = 0.2
CONFIG = """\
# Written by `fracture-node demo`.
[receiver]
host = "127.0.0.1"
port = {receiver}
[storage]
directory = "node"
[api]
port = {api}
[exam]
quiet_s = 1 # each study of the demo has one image
[[destinations]]
name = "archive"
type = "dicom"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {archive}
"""
RIS = """\
[[destinations]]
name = "ris"
type = "hl7"
host = "127.0.0.1"
port = {ris}
"""

console = Console(
    width=None if sys.stdout.isatty() else 160, markup=False, highlight=False
)


@dataclass(frozen=True, slots=True)
class Sent:
    """A phantom that was sent.

    Attributes:
        name: Description of the phantom, for the table.
        sop_instance_uid: SOP Instance UID of the phantom.
        study_instance_uid: Study Instance UID of the phantom and of its result.
        at: Time of the C-STORE response, in seconds of time.monotonic().
    """

    name: str
    sop_instance_uid: str
    study_instance_uid: str
    at: float


@dataclass(frozen=True, slots=True)
class Arrived:
    """A result that reached the archive.

    Attributes:
        path: The file name in the archive's folder.
        at: Time at which the result was stored, in seconds of time.monotonic().
    """

    path: str
    at: float


def main() -> None:
    """Run the demo, and end the process.

    The exit status is 0 if both results and the HL7 message arrived in time, else 1.
    """
    parser = argparse.ArgumentParser("fracture-node demo", description=__doc__)
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path("data/demo"),
        help="folder to write to; default: data/demo",
    )
    parser.add_argument("--once", action="store_true", help="exit after the results")
    arguments = parser.parse_args()
    stop = begin_role("demo", None)
    stop.ready(DRAIN_S)  # _show checks `stop`, so that the exit status is correct
    arrivals = Arrivals()
    archive = start_archive(arguments.directory / "archive", on_stored=arrivals.add)
    messages = Messages()
    ris = Hl7Server(messages.acknowledge)
    peers = Peers(archive, arrivals, messages)
    try:
        config = _configure(arguments.directory, archive, ris)
        settings = load(config)
        with Node(settings, config) as node, node.watched():
            complete = _show(node, settings, peers, stop)
            if not arguments.once:
                console.print(f"The page: http://127.0.0.1:{node.api_port}/")
                console.print("Serving until Ctrl-C.")
                stop.wait()
    finally:
        ris.stop()
        archive.stop()
    sys.exit(0 if complete else 1)


class Arrivals:
    """The first result of each study in the archive, with its time of arrival."""

    def __init__(self) -> None:
        self._by_study: dict[str, Arrived] = {}
        self._changed = threading.Condition()

    def add(self, stored: Stored) -> None:
        """Record a stored result, unless its study already has one."""
        arrived = Arrived(stored.path, time.monotonic())
        with self._changed:
            self._by_study.setdefault(stored.study_instance_uid, arrived)
            self._changed.notify_all()

    def wait(self, studies: set[str], stop: threading.Event) -> dict[str, Arrived]:
        """Wait at most TIMEOUT_S seconds until each study has a result.

        Args:
            studies: The Study Instance UIDs.
            stop: An event that ends the wait.

        Returns:
            The first result of each study that has one, by Study Instance UID. Studies
            that are not in `studies` are included, too.
        """
        deadline = time.monotonic() + TIMEOUT_S
        with self._changed:
            while not (
                self._by_study.keys() >= studies
                or stop.is_set()
                or time.monotonic() > deadline
            ):
                self._changed.wait(POLL_S)
            return dict(self._by_study)


class Messages:
    """The HL7 messages that arrived."""

    def __init__(self) -> None:
        self._messages: list[str] = []
        self._changed = threading.Condition()

    def acknowledge(self, message: str) -> str:
        """Keep a message, and return an acknowledgment that accepts it."""
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()
        return accept(message)

    def wait(self, sop_instance_uid: str, stop: threading.Event) -> str:
        """Wait at most TIMEOUT_S seconds for a message that names an instance.

        Args:
            sop_instance_uid: SOP Instance UID of the instance.
            stop: An event that ends the wait.

        Returns:
            The first such message; an empty text if none has arrived.
        """
        deadline = time.monotonic() + TIMEOUT_S
        with self._changed:
            while True:
                found = [each for each in self._messages if sop_instance_uid in each]
                if found or stop.is_set() or time.monotonic() > deadline:
                    return found[0] if found else ""
                self._changed.wait(POLL_S)


@dataclass(frozen=True, slots=True)
class Peers:
    """The peers of the node, and what they have received.

    Attributes:
        archive: The archive.
        arrivals: The results that reached the archive.
        messages: The messages that reached the HL7 server.
    """

    archive: Archive
    arrivals: Arrivals
    messages: Messages


def _configure(directory: Path, archive: Archive, ris: Hl7Server) -> Path:
    """Write the settings of the demo to a file, and return its path.

    The receiver and the api get their usual ports if these are free, else other ports.
    """
    usual = load(None)
    config = directory / "demo.toml"
    text = (CONFIG + RIS).format(
        receiver=_free_port(usual.receiver.port),
        api=_free_port(usual.api.port),
        archive=archive.port,
        ris=ris.port,
    )
    config.write_text(text, "utf-8")
    return config


def _free_port(port: int) -> int:
    """Return `port`; if it is in use, return 0, which means any free port."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return 0
    return port


def _show(node: Node, settings: Settings, peers: Peers, stop: threading.Event) -> bool:
    """Send the phantoms, wait for their results, and print them.

    The results are printed as a table, followed by the HL7 message about the
    examination of the broken bone, with one segment per line.

    Returns:
        Whether both results and the HL7 message arrived in time.
    """
    console.print("Loading the model …")
    _wait_until_ready(f"http://127.0.0.1:{node.api_port}/readyz", stop)
    if stop.is_set():
        return False
    address = Address(
        ae_title=settings.receiver.ae_title,
        host="127.0.0.1",
        port=node.receiver_port,
    )
    folder = peers.archive.directory
    sent = [_send(broken, address, folder.parent) for broken in (True, False)]
    arrived = peers.arrivals.wait({each.study_instance_uid for each in sent}, stop)
    history = History(open_engine(settings.storage.database_url))
    table = Table(
        *("instance", "result", "probability of a fracture"),
        *("seconds", "Secondary Capture"),
    )
    for each in sent:
        row = history.by_uid(each.sop_instance_uid)[-1]
        result = arrived.get(each.study_instance_uid)
        table.add_row(
            each.name,
            _result_text(row),
            "" if row.probability is None else percent(row.probability),
            "" if result is None else f"{result.at - each.at:.2f}",
            row.reason if result is None else str(folder / result.path),
        )
    console.print(table)
    message = peers.messages.wait(sent[0].sop_instance_uid, stop)
    console.print("The HL7 message about the examination of the first one:")
    console.print(message.replace("\r", "\n"), soft_wrap=True)
    return bool(message) and all(each.study_instance_uid in arrived for each in sent)


def _result_text(row: InstanceRecord) -> str:
    if row.probability is None:
        return row.state
    if row.operating_point == OperatingPoint.NONE:
        return "No Fracture"
    return f"Fracture, {row.operating_point}"


def _wait_until_ready(address: str, stop: threading.Event) -> None:
    """Wait at most TIMEOUT_S seconds until the node is ready.

    A node is ready after it has loaded the model, so the times in the table do not
    include the loading. If the node is not ready in time, print a message and return.

    Args:
        address: The URL of the health check of the node.
        stop: An event that ends the wait.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            opener.open(address, timeout=5).close()
        except OSError:  # not listening yet, or 503 while the model is loaded
            if stop.wait(POLL_S):
                return
        else:
            return
    console.print(
        f"The model is not loaded after {TIMEOUT_S:.0f} s. See the log above."
    )


def _send(broken: bool, address: Address, directory: Path) -> Sent:  # noqa: FBT001
    name = "broken bone" if broken else "whole bone"
    dataset = phantom_dataset(draw_phantom(broken=broken))
    path = directory / f"{name.replace(' ', '-')}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    (outcome,) = send([path], address, calling_ae_title="DEMO_MODALITY")
    at = time.monotonic()
    if outcome.verdict is not Verdict.STORED:
        sys.exit(f"The node did not store the phantom: {outcome.comment}")
    return Sent(name, str(dataset.SOPInstanceUID), str(dataset.StudyInstanceUID), at)


if __name__ == "__main__":
    main()
