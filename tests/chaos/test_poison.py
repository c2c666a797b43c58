"""Images that crash, hang or bloat the decoder fail in words, and no other does."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import RLELossless

from tests.chaos.night import Night, lost, mixed, push, studies_in
from tests.served import children, made_slow, reasons, wait_for

pytestmark = pytest.mark.chaos

INSTANCES = 15
TIMEOUT_S, MEMORY_MB = 1, 1024
# Of 16 bits: 13 MB of file, 800 MB once decoded, and again for each step that copies.
SIDE = 20_000
DECODER = "dicom_node.decoding_process"


def test_a_decoder_that_crashes_hangs_or_bloats_costs_no_other_instance(
    night: Night, new_port: Callable[[], int], seen: Callable[[str], None]
) -> None:
    sent = mixed(night.folder / "sent", INSTANCES, chests=False)
    uids = list(sent.paths)
    hangs, bloats, crashes = (uids[number] for number in (3, 6, 9))
    made_slow(sent.paths[hangs])
    made_slow(sent.paths[crashes])
    make_large(sent.paths[bloats])
    archive = night.archive()
    limits = f"decode_timeout_s = {TIMEOUT_S}\ndecode_memory_mb = {MEMORY_MB}"
    limits += f"\nmax_megapixels = {SIDE**2 // 10**6}"  # memory is what ends it
    night.settings({"archive": archive.port}, (new_port(), new_port()), worker=limits)
    node = night.start()

    start = time.monotonic()
    for uid, path in sent.paths.items():
        push(path, node)
        if uid == crashes:
            wait_for(lambda: killed(node.roles("dicom_node.worker")))
    poison = {hangs, bloats, crashes}
    night.settles({"delivered": INSTANCES - len(poison), "failed": len(poison)})
    took = time.monotonic() - start

    (hung,) = reasons(night.config, hangs)
    (bloated,) = reasons(night.config, bloats)
    (crashed,) = reasons(night.config, crashes)
    seen(f"poison: 3 of {INSTANCES} failed, all done after {took:.1f} s")
    assert f"longer than {TIMEOUT_S} s" in hung
    assert "more memory than it may have" in bloated
    assert "longer than" in crashed or "SIGKILL" in crashed
    assert set(lost(sent, studies_in(archive))) == poison
    assert night.said("worker-0", "Ready") == 1  # it never died of them


def make_large(path: Path) -> None:
    """Make an instance small on the wire and large in memory."""
    dataset = dcmread(path)
    dataset.Rows = dataset.Columns = SIDE
    pixels = np.zeros((SIDE, SIDE), np.uint16)
    dataset.compress(RLELossless, pixels, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)


def killed(workers: list[int]) -> bool:
    """Kill the decoder of a worker while it is at work; whether there was one."""
    decoders = [pid for worker in workers for pid in children(worker, DECODER)]
    for pid in decoders:
        os.kill(pid, signal.SIGKILL)
    return bool(decoders)
