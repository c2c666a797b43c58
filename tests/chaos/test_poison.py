"""Images that crash, hang or exhaust the decoder fail, and no other image does."""

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
# With 16 bits: 13 MB as a file, 800 MB when decoded, and 800 MB more for each copy.
SIDE = 20_000
DECODER = "dicom_node.decoding_process"


def test_decoder_crash_hang_or_memory_limit_fails_no_other_instance(
    night: Night, new_port: Callable[[], int], seen: Callable[[str], None]
) -> None:
    sent = mixed(night.folder / "sent", INSTANCES, chests=False)
    uids = list(sent.paths)
    hanging, large, crashing = (uids[number] for number in (3, 6, 9))
    made_slow(sent.paths[hanging])
    made_slow(sent.paths[crashing])
    make_large(sent.paths[large])
    archive = night.archive()
    limits = f"decode_timeout_s = {TIMEOUT_S}\ndecode_memory_mb = {MEMORY_MB}"
    limits += f"\nmax_megapixels = {SIDE**2 // 10**6}"  # permits it
    night.settings({"archive": archive.port}, (new_port(), new_port()), worker=limits)
    node = night.start()

    start = time.monotonic()
    for uid, path in sent.paths.items():
        push(path, node)
        if uid == crashing:
            wait_for(lambda: killed(node.roles("dicom_node.worker")))
    poison = {hanging, large, crashing}
    night.settles({"delivered": INSTANCES - len(poison), "failed": len(poison)})
    duration = time.monotonic() - start

    (hanging_reason,) = reasons(night.config, hanging)
    (large_reason,) = reasons(night.config, large)
    (crashing_reason,) = reasons(night.config, crashing)
    seen(f"poison: 3 of {INSTANCES} failed, all done after {duration:.1f} s")
    assert f"longer than {TIMEOUT_S} s" in hanging_reason
    assert "more memory than it may have" in large_reason
    assert "longer than" in crashing_reason or "SIGKILL" in crashing_reason
    assert set(lost(sent, studies_in(archive))) == poison
    assert night.said("worker-0", "Ready") == 1  # the worker was never restarted


def make_large(path: Path) -> None:
    """Make an instance small on the wire and large in memory."""
    dataset = dcmread(path)
    dataset.Rows = dataset.Columns = SIDE
    pixels = np.zeros((SIDE, SIDE), np.uint16)
    dataset.compress(RLELossless, pixels, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)


def killed(workers: list[int]) -> bool:
    """Kill the running decoders of the workers; return whether there was one."""
    decoders = [pid for worker in workers for pid in children(worker, DECODER)]
    for pid in decoders:
        os.kill(pid, signal.SIGKILL)
    return bool(decoders)
