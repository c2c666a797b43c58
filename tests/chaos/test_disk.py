"""If the disk is full or read-only, the node reports this and loses no instance."""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicom_node.outcome import Outcome
from tests.chaos.night import Night, lost, mixed, push, store, studies_in
from tests.support.node import wait_for

pytestmark = pytest.mark.chaos

INSTANCES = 12
MB = 1_000_000


@pytest.fixture
def small_disk(night: Night) -> Iterator[Path]:
    """Mount a disk of 48 MiB as the storage directory; yield the directory.

    If the user is not root, the test is skipped.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = night.folder / "node"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", disk], check=True)
    yield disk
    night.close()
    subprocess.run(["umount", "--lazy", disk], check=True)


def readiness(port: int) -> dict[str, str]:
    """Return the status of each check of /readyz, by name.

    If the api does not respond, there is one check, "api".
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/readyz", timeout=20) as response:
            return dict(json.load(response))
    except urllib.error.HTTPError as error:
        return dict(json.load(error))
    except OSError:
        return {"api": "does not answer"}


def is_well(port: int) -> bool:
    return set(readiness(port).values()) == {"ok"}


def filled(disk: Path, leave: int) -> Path:
    """Fill a disk until `leave` bytes are free; return the file that fills it."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        state = os.statvfs(disk)
        room = state.f_bavail * state.f_frsize - leave
        os.posix_fallocate(file.fileno(), 0, room)
    return ballast


@pytest.mark.parametrize("watermark_mb", [8, 0])
def test_node_reports_a_full_disk_and_loses_nothing(
    night: Night,
    small_disk: Path,
    new_port: Callable[[], int],
    seen: Callable[[str], None],
    watermark_mb: int,
) -> None:
    sent = mixed(night.folder / "sent", INSTANCES, chests=False)
    archive, api_port = night.archive(), new_port()
    night.settings(
        {"archive": archive.port},
        (new_port(), api_port),
        storage=f"min_free_mb = {watermark_mb}",
    )
    node = night.start()
    first, *others = sent.paths.values()
    push(first, node)
    wait_for(lambda: is_well(api_port))

    for path in others[:5]:
        push(path, node)
    ballast = filled(small_disk, leave=watermark_mb * MB // 2)
    refused = [store(path, node) for path in others[5:]]
    why = readiness(api_port)
    ballast.unlink()
    start = time.monotonic()
    push(others[5], node)
    took = time.monotonic() - start
    for path in others[6:]:
        push(path, node)
    night.wait_for_states({"delivered": INSTANCES})
    wait_for(lambda: is_well(api_port))

    seen(f"disk full, watermark {watermark_mb} MB: {summary(refused)}; /readyz: {why}")
    seen(f"  took the next {took:.1f} s after there was room; lost 0 of {INSTANCES}")
    assert {each.status for each in refused} == {0xA700}
    assert all("disk" in each.comment.lower() for each in refused)
    assert why["spool"] != "ok"
    assert not lost(sent, studies_in(archive))
    assert night.orphans() == []


def test_node_reports_unwritable_folders_and_loses_nothing(
    night: Night, new_port: Callable[[], int], seen: Callable[[str], None]
) -> None:
    sent = mixed(night.folder / "sent", INSTANCES, chests=False)
    archive, api_port = night.archive(), new_port()
    night.settings({"archive": archive.port}, (new_port(), api_port))
    node = night.start()
    wait_for(lambda: is_well(api_port))
    paths = list(sent.paths.values())
    push(paths[0], node)
    archive.wait(1, 60)
    folders = [night.folder / "node" / name for name in ("spool", "results", "")]

    for each in folders:
        each.chmod(0o500)
    refused = [store(path, node) for path in paths[1:4]]
    why = readiness(api_port)
    for each in folders:
        each.chmod(0o700)
    for path in paths[1:]:
        push(path, node)
    night.wait_for_states({"delivered": INSTANCES})

    seen(f"read-only: {summary(refused)}; /readyz: {why}")
    assert {each.status for each in refused} == {0xA700}
    assert why["spool"] != "ok"
    assert not lost(sent, studies_in(archive))


def test_node_on_a_read_only_disk_reports_it_and_exits(
    night: Night, small_disk: Path, new_port: Callable[[], int]
) -> None:
    night.settings({}, (new_port(), new_port()))
    night.start().stop()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)

    status, output = night.ends()

    assert status == 1
    assert "Traceback" not in output
    assert "read-only" in output.lower()


def summary(outcomes: list[Outcome]) -> str:
    return f"{len(outcomes)} refused, '{outcomes[0].comment}'"
