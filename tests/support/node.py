"""Run a node in separate processes, as in production, for tests.

Some functions inspect the processes and the journal of the node.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

import numpy as np
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from config.destinations import Address
from config.settings import load
from dicom_node.delivery.c_store import echo
from dicom_node.outcome import Verdict
from dicom_node.queries.history import History
from dicom_node.storage.database import open_engine
from dicom_node.storage.run_folder import run_folder

SERVER = "dicom_node.runtime.role_server"
START = (sys.executable, "-P", "-m", "dicom_node.commands.serve")
NOTHING: Mapping[str, str] = MappingProxyType({})
SLOW_ROWS, SLOW_COLUMNS = 10_000, 20_000
"""Size of an image that takes more than 2 s to decode on a fast machine.

The receiver accepts the image by default. The worker analyzes it only if the setting
max_megapixels is at least 200. The default is 100.
"""
PATIENCE_S = 120.0  # for a busy machine; usually much shorter
LOG_LINES = 60


class Served:
    """A node in separate processes. It can be killed and started again.

    Attributes:
        process: The process of the supervisor, after `start`.
    """

    def __init__(
        self,
        config: Path,
        before: Sequence[str] = (),
        environment: Mapping[str, str] = NOTHING,
        title: str = "TEST",
    ) -> None:
        """Store the arguments. Nothing is started.

        Args:
            config: The settings. The log is written to the file `log` beside it.
            before: A prefix of the command, such as `setpriv` and its options.
            environment: Further environment variables.
            title: The calling AE title of the C-ECHOs that `start` sends to the node.
        """
        self._config = config
        self._title = title
        self._ports = run_folder(load(config, {}).storage) / "ports.json"
        self._before = before
        self._environment = environment

    def start(self) -> None:
        self._ports.unlink(missing_ok=True)
        with (self._config.parent / "log").open("a") as log:
            self.process = subprocess.Popen(
                [*self._before, *START, f"--config={self._config}"],
                stderr=log,
                env={**os.environ, **self._environment},
            )
        wait_for(lambda: self._ports.exists() and self._ports.read_text() != "")
        self.address = Address(
            ae_title="FRACTURE_AI",
            host="127.0.0.1",
            port=json.loads(self._ports.read_text())["receiver"],
        )
        wait_for(self._echoes)

    def kill(self) -> None:
        """Kill the supervisor; the kernel then kills the roles."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def roles(self, module: str) -> list[int]:
        """Return the process ids of a role.

        `module` is the package of the role, such as "api" or "dicom_node.worker".
        """
        name = module.removeprefix("dicom_node.")
        return [
            pid
            for server in self.role_servers()
            for pid in children(server, SERVER)
            if process_name(pid).startswith(name)
        ]

    def role_servers(self) -> list[int]:
        """Return the process ids of the servers of the roles.

        The first one is the server of the receivers. Its fork, the second one, is the
        server of the other roles.
        """
        first = children(self.process.pid, SERVER)
        forks = [pid for server in first for pid in children(server, SERVER)]
        return first + [pid for pid in forks if process_name(pid) == "roles"]

    def decoding_servers(self) -> list[int]:
        """Return the process ids of the fork servers of the decoders.

        They are forks of the common decoding server, which is a fork of the server of
        the receivers.
        """
        first = children(self.process.pid, SERVER)
        forks = [pid for server in first for pid in children(server, SERVER)]
        common = [pid for pid in forks if process_name(pid) == "decoders"]
        return [pid for each in common for pid in children(each, SERVER)]

    def _echoes(self) -> bool:
        outcome = echo(self.address, calling_ae_title=self._title)
        return outcome.verdict is Verdict.STORED


def children(parent: int, module: str) -> list[int]:
    """Return the process ids of the children of `parent` that run `module`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            its_parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if module.encode() in words and int(its_parent) == parent:
            found.append(int(entry.name))
    return found


def process_name(pid: int) -> str:
    """Return the name of a process as `ps -e` shows it; empty if it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def memory(pid: int) -> bytes:
    """Return the content of the writable memory of a process.

    The caller needs the permission to trace the process.
    """
    found = bytearray()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as content:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            bounds, permissions, *_ = line.split()
            if permissions.startswith("rw"):
                start, end = (int(each, 16) for each in bounds.split("-"))
                content.seek(start)
                with suppress(OSError):  # it was freed in between
                    found += content.read(end - start)
    return bytes(found)


def wait_for(condition: Callable[[], bool]) -> None:
    """Poll a condition until it is true.

    The interval grows, because polling takes processor time from the polled process.

    Raises:
        AssertionError: The condition was not true within PATIENCE_S seconds.
    """
    start = time.monotonic()
    while not condition():
        waited = time.monotonic() - start
        assert waited < PATIENCE_S, "the condition was not true in time"
        time.sleep(min(max(waited / 10, 0.02), 0.5))


def alive(pid: int) -> bool:
    """Return whether a process runs, and is not a zombie."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1][:3]
    except (FileNotFoundError, ProcessLookupError):
        return False


def processor_s(pid: int) -> float:
    """Return the processor seconds that a process has used, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(config: Path) -> Iterator[Served]:
    """Run a node during the block, and kill it afterwards; yield the node.

    If the block raises, the exception gets a note with the end of the log of the node.
    """
    node = Served(config)
    try:
        node.start()
        yield node
    except BaseException as error:
        log = (config.parent / "log").read_text(errors="replace").splitlines()
        error.add_note(
            "\n".join(["The end of the log of the node:", *log[-LOG_LINES:]])
        )
        raise
    finally:
        node.kill()


def counts(config: Path) -> dict[str, int]:
    """Return the number of received images by state.

    Results of the node that were sent back to it are counted as "returned".
    """
    with history(config) as opened:
        return opened.counts()


def reasons(config: Path, sop_instance_uid: str) -> list[str]:
    """Return the reason of each revision of an instance, in the order of revisions."""
    with history(config) as opened:
        return [row.reason for row in opened.by_uid(sop_instance_uid)]


def states(config: Path, sop_instance_uid: str) -> list[str]:
    """Return the state of each revision of an instance, in the order of revisions."""
    with history(config) as opened:
        return [row.state for row in opened.by_uid(sop_instance_uid)]


@contextmanager
def history(config: Path) -> Iterator[History]:
    """Yield the history in the journal of a node; close the database afterwards."""
    engine = open_engine(load(config, {}).storage.database_url)
    try:
        yield History(engine)
    finally:
        engine.dispose()


def made_slow(path: Path) -> None:
    """Change the image in a file to 200 megapixels, which take seconds to decode.

    The dataset is deflated, so that the file is small.
    """
    dataset = dcmread(path)
    dataset.Rows, dataset.Columns = SLOW_ROWS, SLOW_COLUMNS
    row = (np.arange(SLOW_COLUMNS) % 4096).astype("<u2").tobytes()
    dataset.PixelData = row * SLOW_ROWS
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
