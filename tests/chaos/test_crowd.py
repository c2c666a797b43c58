"""Many clients that are connected at the same time, silent or sending."""

import socket
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import DigitalXRayImageStorageForPresentation

from dicom_node.metrics.counters import REJECTED
from dicom_node.reasons import Rejection
from tests.chaos.night import Night, mixed, push
from tests.support.node import Served, wait_for

pytestmark = pytest.mark.chaos

SILENT = 300
ASSOCIATIONS, LIMIT = 64, 50
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)  # transient, provider (presentation): PS3.8 9.3.4
ECHOES = 20
MAX_RECEIVER_MB = 150


@pytest.mark.dcmtk
@pytest.mark.parametrize("sends_slowly", [False, True])
def test_receiver_answers_c_echo_within_a_second_with_300_idle_connections(
    night: Night,
    new_port: Callable[[], int],
    peer: Callable[[str], str],
    seen: Callable[[str], None],
    sends_slowly: bool,  # noqa: FBT001
) -> None:
    night.settings({}, (new_port(), new_port()))
    node = night.start()
    address = node.address
    over = threading.Event()
    host_and_port = (address.host, address.port)
    sockets = [socket.create_connection(host_and_port) for _ in range(SILENT)]
    crowd = threading.Thread(target=send_slowly, args=(sockets, over))
    if sends_slowly:
        crowd.start()
    command = [
        peer("echoscu"),
        "-aec",
        address.ae_title,
        address.host,
        str(address.port),
    ]
    took = []
    for _ in range(ECHOES):
        start = time.monotonic()
        subprocess.run(command, check=True, timeout=30)
        took.append(time.monotonic() - start)
        sockets += reconnected(sockets, address.port)
    over.set()
    if sends_slowly:
        crowd.join()
    for each in sockets:
        each.close()

    behavior = "a byte a second" if sends_slowly else "silent"
    seen(
        f"{SILENT} clients, {behavior}: C-ECHO in at most {max(took):.2f} s of {ECHOES}"
    )
    assert max(took) < 1


def send_slowly(sockets: list[socket.socket], over: threading.Event) -> None:
    """Send an A-ASSOCIATE-RQ on each socket, one byte per second.

    If `over` is set, the function returns early.
    """
    request = b"\x01\x00\x00\x00\x01\x00" + bytes(256)
    for byte in request:
        if over.wait(1):
            return
        for each in list(sockets):
            try:
                each.send(bytes([byte]))
            except OSError:
                continue


def reconnected(sockets: list[socket.socket], port: int) -> list[socket.socket]:
    """Remove the sockets that the node closed; return as many new connections."""
    gone = []
    for each in sockets:
        each.settimeout(0)
        try:
            if not each.recv(64):
                gone.append(each)
        except BlockingIOError:
            continue
        except OSError:
            gone.append(each)
    for each in gone:
        sockets.remove(each)
        each.close()
    return [socket.create_connection(("127.0.0.1", port)) for _ in gone]


def test_receiver_accepts_associations_up_to_the_limit_and_rejects_others(
    night: Night, new_port: Callable[[], int], seen: Callable[[str], None]
) -> None:
    sent = mixed(night.folder / "sent", ASSOCIATIONS, chests=False)
    archive = night.archive()
    limits = f"max_associations = {LIMIT}\nmax_associations_per_caller = {ASSOCIATIONS}"
    night.settings(
        {"archive": archive.port},
        (new_port(), api_port := new_port()),
        receiver=f"{limits}\nprocesses = 2",
    )
    node = night.start()
    idle_mb = max(peak_mb(pid) for pid in node.roles("dicom_node.receiver"))
    callers = [associate(node) for _ in range(ASSOCIATIONS)]
    accepted = [each for each in callers if each.is_established]
    rejected = Counter(
        (rejection.result, rejection.result_source, rejection.diagnostic)
        for rejection in (
            each.acceptor.primitive for each in callers if each.is_rejected
        )
    )
    rejected_count = len(callers) - len(accepted)
    reason = Rejection.LIMIT_EXCEEDED.reason
    metric = f'{REJECTED.name}_total{{reason="{reason}"}} {rejected_count}'
    wait_for(lambda: metric in scraped(api_port).replace(".0\n", "\n"))
    for each in accepted:
        each.release()

    statuses: Counter[str] = Counter()

    def send(path: Path) -> None:
        tries = push(path, node)
        statuses["repeated" if tries > 1 else "first attempt"] += 1

    threads = [
        threading.Thread(target=send, args=(path,)) for path in sent.paths.values()
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    peaks = [peak_mb(pid) for pid in node.roles("dicom_node.receiver")]
    night.wait_for_states({"delivered": ASSOCIATIONS})

    seen(f"{ASSOCIATIONS} associations: {len(accepted)} served, {dict(rejected)}")
    seen(f"  all {ASSOCIATIONS} sent, {dict(statuses)}")
    seen(f"  receivers at most {peaks} MB, idle {idle_mb} MB")
    assert len(accepted) == LIMIT
    assert rejected == {LOCAL_LIMIT_EXCEEDED: ASSOCIATIONS - LIMIT}
    assert sum(statuses.values()) == ASSOCIATIONS
    assert max(peaks) < MAX_RECEIVER_MB


def scraped(api_port: int) -> str:
    """Return the text of /metrics; an empty text if the request fails."""
    url = f"http://127.0.0.1:{api_port}/metrics"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=30) as response:
            text: str = response.read().decode()
    except OSError:
        return ""
    return text


def associate(node: Served) -> Association:
    ae = AE("CROWD")
    ae.add_requested_context(DigitalXRayImageStorageForPresentation)
    address = node.address
    return ae.associate(address.host, address.port, ae_title=address.ae_title)


def peak_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [each for each in status.splitlines() if each.startswith("VmHWM")]
    return int(line.split()[1]) // 1000
