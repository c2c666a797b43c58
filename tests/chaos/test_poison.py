"""Images that hang the decoder or exhaust its memory fail; no other image fails.

The reason of the failure says what happened. If a decoder or the fork server of the
decoders is killed, the image is analyzed again. The image fails after three deaths of
its decoder. The move to the slow lane counts as a death.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from dicom_node.worker.workflows import MOST_CHILD_DEATHS
from tests.chaos.night import Night, lost, mixed, push, studies_in
from tests.support.node import (
    SERVER,
    Served,
    alive,
    children,
    history,
    made_slow,
    processor_s,
    reasons,
    wait_for,
)

pytestmark = pytest.mark.chaos

INSTANCES = 15
TIMEOUT_S, MEMORY_MB = 1, 1024
# With 16 bits, the file has 13 MB. The decoded pixels and each of their copies have
# 800 MB.
SIDE = 20_000
# An enlarged phantom has at most this many rows. It has more than 200 megapixels, too
# many for the normal lane.
LARGE_SIDE = 16_000
MEGAPIXELS = f"max_megapixels = {SIDE**2 // 10**6}"
AT_WORK_S = 0.3  # a decoder with more processor time than this has begun an image


def make_large(path: Path) -> None:
    """Change an instance so that its file is small and its decoded pixels are large."""
    dataset = dcmread(path)
    dataset.Rows = dataset.Columns = SIDE
    pixels = np.zeros((SIDE, SIDE), np.uint16)
    dataset.compress(RLELossless, pixels, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)


# Each image has a node with one of the limits, because the slow image needs 1.4 GB of
# address space, more than MEMORY_MB.
POISON: Mapping[str, tuple[str, Callable[[Path], None], str]] = {
    "hangs": (
        f"decode_timeout_s = {TIMEOUT_S}",
        made_slow,
        f"longer than {TIMEOUT_S} s",
    ),
    "bloats": (
        f"decode_memory_mb = {MEMORY_MB}",
        make_large,
        "more memory than decode_memory_mb",
    ),
}


@pytest.mark.parametrize("kind", POISON)
def test_an_image_that_hangs_or_bloats_the_decoder_costs_no_other_instance(
    kind: str,
    night: Night,
    new_port: Callable[[], int],
    seen: Callable[[str], None],
) -> None:
    limit, make, words = POISON[kind]
    sent = mixed(night.folder / "sent", INSTANCES, chests=False)
    poison = list(sent.paths)[3]
    make(sent.paths[poison])
    archive = night.archive()
    limits = f"{limit}\n{MEGAPIXELS}"
    night.settings({"archive": archive.port}, (new_port(), new_port()), worker=limits)
    node = night.start()

    start = time.monotonic()
    for path in sent.paths.values():
        push(path, node)
    night.wait_for_states({"delivered": INSTANCES - 1, "failed": 1})
    took = time.monotonic() - start

    (reason,) = reasons(night.config, poison)
    seen(f"{kind}: 1 of {INSTANCES} failed, all done after {took:.1f} s")
    assert words in reason
    assert lost(sent, studies_in(archive)) == [poison]
    assert night.said("worker-0", "Ready") == 1  # the worker did not die


# The move to the slow lane counts as the first death.
@pytest.mark.parametrize("kills", [1, MOST_CHILD_DEATHS - 1])
@pytest.mark.parametrize("killed", ["fork", "server"])
def test_a_decoder_that_is_killed_costs_no_instance_until_it_dies_three_times(
    killed: str,
    kills: int,
    night: Night,
    new_port: Callable[[], int],
    seen: Callable[[str], None],
) -> None:
    sent = mixed(night.folder / "sent", INSTANCES, chests=False)
    large = list(sent.paths)[2]
    enlarge(sent.paths[large])
    archive = night.archive()
    night.settings(
        {"archive": archive.port}, (new_port(), new_port()), worker=MEGAPIXELS
    )
    node = night.start()
    wait_for(lambda: night.said("worker-0", "Ready") == 1)
    fatal = kills + 1 == MOST_CHILD_DEATHS

    start = time.monotonic()
    for path in sent.paths.values():
        push(path, node)
    for _ in range(kills):
        wait_for(lambda: kill_at_work(node, killed))
    failed = {"failed": 1} if fatal else {}
    night.wait_for_states({"delivered": INSTANCES - len(failed), **failed})
    took = time.monotonic() - start

    with history(night.config) as told:
        (row,) = told.by_uid(large)
    seen(f"{kills} times {killed} killed: {row.state}, all done after {took:.1f} s")
    assert row.child_deaths == kills + 1
    assert ("SIGKILL" in row.reason) is fatal
    assert lost(sent, studies_in(archive)) == [large] * fatal
    assert night.said("worker-0", "Ready") == 1


def enlarge(path: Path) -> None:
    """Repeat each pixel of an instance, so that decoding it takes seconds."""
    dataset = dcmread(path)
    small = dataset.pixel_array
    times = LARGE_SIDE // small.shape[0]
    pixels = small.repeat(times, 0).repeat(times, 1)
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.tobytes()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)


def kill_at_work(node: Served, killed: str) -> bool:
    """Kill the decoder of the slow lane while it works, or kill its fork server.

    `killed` is "fork" for the decoder, and "server" for the fork server.

    Returns:
        Whether a decoder was at work. If so, it has ended.
    """
    (worker,) = node.roles("dicom_node.worker")
    for server in node.decoding_servers():
        for fork in children(server, SERVER):
            with suppress(OSError):  # it ended in between
                if niceness(fork) > niceness(worker) and processor_s(fork) > AT_WORK_S:
                    os.kill(fork if killed == "fork" else server, signal.SIGKILL)
                    wait_for(lambda: not alive(fork))  # noqa: B023 - called here
                    return True
    return False


def niceness(pid: int) -> int:
    """Return the niceness of a process.

    A decoder of the slow lane has a higher niceness than its worker.
    """
    return os.getpriority(os.PRIO_PROCESS, pid)
