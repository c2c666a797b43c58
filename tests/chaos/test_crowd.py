"""Many at once: those who say nothing, and those who send."""

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

from dicom_node.admission import LIMIT_EXCEEDED
from dicom_node.tally import REJECTED
from tests.chaos.night import Night, mixed, push
from tests.served import Served, wait_for

pytestmark = pytest.mark.chaos

SILENT = 300
ASSOCIATIONS, LIMIT = 64, 50
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)  # transient, provider (presentation): PS3.8 9.3.4
ECHOES = 20
MORE_MB = 20  # an idle receiver has 145 MB, most of them modules


@pytest.mark.dcmtk
@pytest.mark.parametrize("talks", [False, True])
def test_c_echo_is_answered_in_a_second_beside_300_who_say_nothing(
    night: Night,
    new_port: Callable[[], int],
    peer: Callable[[str], str],
    seen: Callable[[str], None],
    talks: bool,  # noqa: FBT001
) -> None:
    night.settings({}, (new_port(), new_port()))
    node = night.start()
    where = node.address
    over = threading.Event()
    address = (where.host, where.port)
    sockets = [socket.create_connection(address) for _ in range(SILENT)]
    crowd = threading.Thread(target=keep_talking, args=(sockets, over))
    if talks:
        crowd.start()
    command = [peer("echoscu"), "-aec", where.ae_title, where.host, str(where.port)]
    took = []
    for _ in range(ECHOES):
        start = time.monotonic()
        subprocess.run(command, check=True, timeout=30)
        took.append(time.monotonic() - start)
        sockets += revived(sockets, where.port)  # who is sent away comes back
    over.set()
    if talks:
        crowd.join()
    for each in sockets:
        each.close()

    how = "a byte a second" if talks else "silent"
    seen(f"{SILENT} clients, {how}: C-ECHO in at most {max(took):.2f} s of {ECHOES}")
    assert max(took) < 1


def keep_talking(sockets: list[socket.socket], over: threading.Event) -> None:
    """Send a byte a second of a request for an association, on each."""
    request = b"\x01\x00\x00\x00\x01\x00" + bytes(256)
    for byte in request:
        if over.wait(1):
            return
        for each in list(sockets):
            try:
                each.send(bytes([byte]))
            except OSError:
                continue


def revived(sockets: list[socket.socket], port: int) -> list[socket.socket]:
    """Call again for those who were sent away."""
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


def test_64_associations_at_once_are_served_up_to_the_limit_and_told_beyond(
    night: Night, new_port: Callable[[], int], seen: Callable[[str], None]
) -> None:
    sent = mixed(night.folder / "sent", ASSOCIATIONS, chests=False)
    archive = night.archive()
    places = f"max_associations = {LIMIT}\nmax_associations_per_caller = {ASSOCIATIONS}"
    night.settings(
        {"archive": archive.port},
        (new_port(), api_port := new_port()),
        receiver=f"{places}\nprocesses = 2",
    )
    node = night.start()
    idle_mb = max(peak_mb(pid) for pid in node.roles("dicom_node.receiver"))
    callers = [associate(node) for _ in range(ASSOCIATIONS)]
    inside = [each for each in callers if each.is_established]
    rejected = Counter(
        (answer.result, answer.result_source, answer.diagnostic)
        for answer in (each.acceptor.primitive for each in callers if each.is_rejected)
    )
    turned_away = len(callers) - len(inside)
    counted = f'{REJECTED.name}_total{{reason="{LIMIT_EXCEEDED.reason}"}} {turned_away}'
    wait_for(lambda: counted in scraped(api_port).replace(".0\n", "\n"))
    for each in inside:
        each.release()

    statuses: Counter[str] = Counter()

    def send(path: Path) -> None:
        tries = push(path, node)
        statuses["again" if tries > 1 else "at once"] += 1

    threads = [
        threading.Thread(target=send, args=(path,)) for path in sent.paths.values()
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    peaks = [peak_mb(pid) for pid in node.roles("dicom_node.receiver")]
    night.settles({"delivered": ASSOCIATIONS})

    seen(f"{ASSOCIATIONS} associations: {len(inside)} served, {dict(rejected)}")
    seen(f"  all {ASSOCIATIONS} sent, {dict(statuses)}")
    seen(f"  receivers at most {peaks} MB, idle {idle_mb} MB")
    assert len(inside) == LIMIT
    assert rejected == {LOCAL_LIMIT_EXCEEDED: ASSOCIATIONS - LIMIT}
    assert sum(statuses.values()) == ASSOCIATIONS
    assert max(peaks) - idle_mb < MORE_MB


def scraped(api_port: int) -> str:
    """What the api has for Prometheus; nothing while it starts."""
    where = f"http://127.0.0.1:{api_port}/metrics"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(where, timeout=30) as response:
            text: str = response.read().decode()
    except OSError:
        return ""
    return text


def associate(node: Served) -> Association:
    ae = AE("CROWD")
    ae.add_requested_context(DigitalXRayImageStorageForPresentation)
    where = node.address
    return ae.associate(where.host, where.port, ae_title=where.ae_title)


def peak_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [each for each in status.splitlines() if each.startswith("VmHWM")]
    return int(line.split()[1]) // 1000
