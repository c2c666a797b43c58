"""The attacked node, and the time and memory that an attack costs it."""

import hashlib
import json
import math
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Self

from pydicom import dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from dicom_node.delivery.c_store import send
from dicom_node.demo.archive import Archive, start_archive
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.outcome import Verdict
from inference.phantom.long_bone import draw_phantom
from tests.attack.crafted import read_sample
from tests.support import node
from tests.support.node import Served, wait_for
from tests.support.raw_sender import RawSender

LOOKING = "a-token-of-a-viewer-0123456789"
ACTING = "a-token-of-an-operator-0123456789"
SECRET = "the-secret-of-these-tests-0123456789"  # noqa: S105
LONGEST_WAIT_S = 45.0
NOTHING: Mapping[str, str] = MappingProxyType({})
SETTINGS = """
[receiver]
host = "127.0.0.1"
port = 0
[storage]
directory = "node"
min_free_mb = 1
[model]
device = "cpu"
[log]
format = "json"
[api]
port = 0
tokens = [
    {{ name = "looking", role = "viewer", sha256 = "{looking}" }},
    {{ name = "acting", role = "operator", sha256 = "{acting}" }},
    {{ name = "secret", role = "operator", env = "PAGE_TOKEN" }},
]
[[destinations]]
name = "archive"
type = "dicom"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {port}
"""
ROLES = ("receiver", "worker", "api", "decoder")
MODULES = {
    "dicom_node.commands.serve": "supervisor",
    node.SERVER: "server of the roles",
}


class Target:
    """A node with a working archive, and a modality that sends good images to the node.

    Attributes:
        folder: The folder with the files of the node, the archive and the modality.
        usual_s: The turnaround of a good image without an attack, in seconds; NaN
            before it is measured.
        damaged: Whether an attack left work behind, so that the node must be restarted
            before the next attack.
    """

    def __init__(self, folder: Path, destinations: str = "") -> None:
        """Start the archive, and write the settings. The node is not started.

        Args:
            folder: The folder for all files.
            destinations: Further destinations, in the format of the settings.
        """
        self.folder = folder
        self.config = folder / "node.toml"
        self.archive: Archive = start_archive(folder / "archive")
        self.usual_s = math.nan
        self.damaged = False
        self._images = 0
        self._source = ""
        self._syntax = ExplicitVRLittleEndian
        digests = {
            name: hashlib.sha256(token.encode()).hexdigest()
            for name, token in (("looking", LOOKING), ("acting", ACTING))
        }
        text = SETTINGS.format(port=self.archive.port, **digests)
        self.config.write_text(text + destinations)
        environment = {"PACS_TOKEN": SECRET[::-1], "PAGE_TOKEN": SECRET}
        self.node = Served(self.config, environment=environment, title="GOOD")

    def start(self) -> Self:
        self.node.start()
        wait_for(lambda: "api" in self.ports())
        self.turnaround()  # loads the model
        self.usual_s = min(self.turnaround() for _ in range(2))
        assert self.usual_s < LONGEST_WAIT_S, "it does not work without an attack"
        return self

    def renew(self) -> None:
        """If an attack left work behind, restart the node with an empty storage."""
        if self.damaged:
            self.node.kill()
            wait_for(self._is_removed)  # its roles may still be shutting down
            self.damaged = False
            self.start()

    def _is_removed(self) -> bool:
        storage = self.folder / "node"
        shutil.rmtree(storage, ignore_errors=True)
        return not storage.exists()

    def close(self) -> None:
        if hasattr(self.node, "process"):
            self.node.kill()
        self.archive.stop()

    def ports(self) -> dict[str, int]:
        with suppress(OSError, ValueError):
            path = self.folder / "node" / "run" / "ports.json"
            return dict(json.loads(path.read_text()))
        return {}

    @property
    def receiver(self) -> int:
        return self.node.address.port

    @property
    def api(self) -> int:
        return self.ports()["api"]

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def image(self, side: int = 300, **attributes: object) -> tuple[Path, str]:
        """Write a good image; return its file and its Study Instance UID."""
        self._images += 1
        drawn = draw_phantom(
            broken=True, rows=side, columns=side * 4 // 5, seed=self._images
        )
        dataset = phantom_dataset(drawn)
        dataset.SOPInstanceUID = generate_uid()
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        if self._syntax.is_compressed:
            dataset.compress(self._syntax, generate_instance_uid=False)
        for name, value in attributes.items():
            setattr(dataset, name, value)
        path = self.folder / f"image{self._images}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return path, str(dataset.StudyInstanceUID)

    def store(self, path: Path, title: str = "GOOD") -> bool:
        """Send an image once as a modality; return whether the node accepted it."""
        if self._source:
            sender = RawSender(self.receiver, source=self._source)
            try:
                return sender.send(read_sample(path)).status == 0
            finally:
                sender.close()
        (outcome,) = send(
            [path], self.node.address, calling_ae_title=title, timeout_s=10
        )
        return outcome.verdict is Verdict.STORED

    @contextmanager
    def sending_from(self, address: str) -> Iterator[None]:
        """Send good images from another address during the block.

        If `address` is empty, they are sent from the usual address.
        """
        self._source = address
        try:
            yield
        finally:
            self._source = ""

    @contextmanager
    def sending_as(self, syntax: UID) -> Iterator[None]:
        """Send good images in another transfer syntax during the block."""
        usual, self._syntax = self._syntax, syntax
        try:
            yield
        finally:
            self._syntax = usual

    def turnaround(self, longest_s: float = LONGEST_WAIT_S, **image: object) -> float:
        """Send a good image, and wait until its result is archived.

        If the node refuses the image, it is sent again.

        Args:
            longest_s: Seconds to wait for the result.
            image: Arguments of the method `image`.

        Returns:
            The elapsed seconds; infinity if there is no result after `longest_s`.
        """
        path, study = self.image(**image)  # type: ignore[arg-type]
        start = time.monotonic()
        end = start + longest_s
        is_stored = False
        while time.monotonic() < end:
            is_stored = is_stored or self.store(path)
            if is_stored and self.has_result(study):
                return time.monotonic() - start
            time.sleep(0.05 if is_stored else 0.3)
        return math.inf

    def has_result(self, study: str) -> bool:
        return any(
            each.study_instance_uid == study and each.path for each in self.archive.log
        )

    def patients(self) -> set[str]:
        """Return the Patient IDs of the results in the archive."""
        paths = {each.path for each in self.archive.log if each.path}
        files = (self.folder / "archive" / path for path in paths)
        found = (dcmread(each, specific_tags=["PatientID"]) for each in files)
        return {str(each.PatientID) for each in found}


class Memory:
    """A context manager that measures how the memory of a node's processes grows."""

    def __init__(self, supervisor: int) -> None:
        self._supervisor = supervisor
        self._over = threading.Event()
        self._before = resident(supervisor)
        self._peaks = dict(self._before)
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            for key, megabytes in resident(self._supervisor).items():
                self._peaks[key] = max(megabytes, self._peaks.get(key, 0))

    def growth(self) -> dict[str, int]:
        """Return the largest growth of a process for each role, in megabytes.

        A process that has started since the creation of this object is compared with
        the largest earlier process of its role, or with 0 if there was none.
        """
        usual: dict[str, int] = {}
        for (role, _), megabytes in self._before.items():
            usual[role] = max(megabytes, usual.get(role, 0))
        grown: dict[str, int] = {}
        for (role, pid), peak in self._peaks.items():
            before = self._before.get((role, pid), usual.get(role, 0))
            grown[role] = max(peak - before, grown.get(role, 0))
        return grown


def resident(supervisor: int) -> dict[tuple[str, int], int]:
    """Return the resident megabytes of a node's processes, by role and process id."""
    return {
        (role, pid): megabytes
        for pid, role in processes(supervisor).items()
        if (megabytes := _resident(pid))
    }


def processes(supervisor: int) -> dict[int, str]:
    """Return the roles of a node's processes, by process id."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            parents[int(entry.name)] = int(fields[1])
    found: dict[int, str] = {}
    for pid in parents:
        above = pid
        while above in parents and above != supervisor:
            above = parents[above]
        if above == supervisor:
            found[pid] = _role(pid)
    return found


def _role(pid: int) -> str:
    for role in ROLES:
        if node.process_name(pid).startswith(role):
            return role
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        for module, role in MODULES.items():
            if module in words:
                return role
    return "other"


def _resident(pid: int) -> int:
    with suppress(OSError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000
    return 0


def processor_s(supervisor: int, role: str) -> float:
    """Return the processor seconds that the running processes of a role have used."""
    total = 0.0
    for pid, its_role in processes(supervisor).items():
        if its_role == role:
            with suppress(OSError, IndexError):
                total += node.processor_s(pid)
    return total
