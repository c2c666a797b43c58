"""Databases that are locked, unreadable or restarted: no instance is lost."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable

import psycopg
import pytest

from config.settings import load
from dicom_node.delivery.c_store import echo
from dicom_node.outcome import Verdict
from dicom_node.queries.history import History
from dicom_node.storage.database import open_engine
from tests.chaos.night import (
    MODULES,
    Night,
    lost,
    mixed,
    push,
    side_by_side,
    store,
    studies_in,
)
from tests.support.node import wait_for

pytestmark = pytest.mark.chaos

LOCKED_S = 20.0
INSTANCES = 24


def recorded(night: Night) -> set[str]:
    """Return the SOP Instance UIDs in the journal."""
    engine = open_engine(load(night.config, {}).storage.database_url)
    found = {row.sop_instance_uid for row in History(engine).recent(1_000_000)}
    engine.dispose()
    return found


def test_locked_database_loses_no_instance(
    night: Night, new_port: Callable[[], int], seen: Callable[[str], None]
) -> None:
    sent = mixed(night.folder / "sent", INSTANCES, chests=False)
    archive = night.archive()
    night.settings({"archive": archive.port}, (new_port(), new_port()))
    node = night.start()
    uids = list(sent.paths)
    for uid in uids[:12]:
        push(sent.paths[uid], node)

    file = night.folder / "node" / "node.sqlite"
    with sqlite3.connect(file, isolation_level=None, timeout=30) as other:
        other.execute("BEGIN IMMEDIATE")
        start, refused, durations, echoes = time.monotonic(), [], [], []
        for uid in uids[12:]:
            if time.monotonic() - start > LOCKED_S:
                break
            before = time.monotonic()
            refused.append(store(sent.paths[uid], node))
            durations.append(time.monotonic() - before)
            before = time.monotonic()
            assert echo(node.address, calling_ae_title="E").verdict is Verdict.STORED
            echoes.append(time.monotonic() - before)
        other.execute("ROLLBACK")
    recorded_uids = recorded(night)
    unlocked = time.monotonic()
    for uid in uids[12:]:
        push(sent.paths[uid], node)
    night.wait_for_states({"delivered": INSTANCES})

    seen(f"database locked {LOCKED_S:.0f} s: {len(refused)} refused after at most")
    seen(f"  {max(durations):.1f} s, C-ECHO in {max(echoes):.2f} s, all delivered")
    seen(f"  {time.monotonic() - unlocked:.1f} s after, lost 0 of {INSTANCES}")
    assert {each.status for each in refused} == {0xA700}
    assert recorded_uids == set(uids[:12])
    assert not lost(sent, studies_in(archive))
    assert night.orphans() == []


def test_node_waits_for_an_unreadable_database(
    night: Night, new_port: Callable[[], int], seen: Callable[[str], None]
) -> None:
    sent = mixed(night.folder / "sent", INSTANCES, chests=False)
    archive = night.archive()
    night.settings({"archive": archive.port}, (new_port(), new_port()))
    node = night.start()
    uids = list(sent.paths)
    for uid in uids[:12]:
        push(sent.paths[uid], node)

    file = night.folder / "node" / "node.sqlite"
    file.chmod(0)
    acknowledged = set(uids[:12])
    for uid in uids[12:16]:  # processes with the file open can still write
        if store(sent.paths[uid], node).verdict is Verdict.STORED:
            acknowledged.add(uid)
    for module in MODULES.values():
        for pid in node.roles(module):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: "cannot be opened" in (night.folder / "log").read_text())
    file.chmod(0o600)
    restored = time.monotonic()
    known = recorded(night)
    for uid in uids[12:]:
        push(sent.paths[uid], node)
    took = time.monotonic() - restored
    night.wait_for_states({"delivered": INSTANCES})

    seen(f"database unreadable: recorded again {took:.1f} s after it became readable")
    assert acknowledged <= known
    assert not lost(sent, studies_in(archive))


@pytest.mark.postgresql
def test_restart_of_postgresql_loses_no_instance(
    night: Night,
    new_port: Callable[[], int],
    postgresql: str,
    restart_postgresql: Callable[[], None],
    seen: Callable[[str], None],
) -> None:
    sent = mixed(night.folder / "sent", INSTANCES, chests=False)
    archive = night.archive()
    with psycopg.connect(postgresql, autocommit=True) as administration:
        administration.execute("CREATE DATABASE night")
    url = postgresql.replace("/postgres?", "/night?")
    night.settings(
        {"archive": archive.port},
        (new_port(), new_port()),
        storage=f'min_free_mb = 1\ndatabase = "{url}"',
    )
    migrate = (sys.executable, "-P", "-m", "dicom_node.commands.migrate")
    subprocess.run([*migrate, f"--config={night.config}"], check=True)
    node = night.start()
    restarts = 0

    def sending() -> None:
        for path in sent.paths.values():
            push(path, node)

    def restarting() -> None:
        nonlocal restarts
        for count in (4, 10, 16):
            archive.wait(count, 120)
            restart_postgresql()
            restarts += 1

    side_by_side([sending, restarting])
    took = night.wait_for_states({"delivered": INSTANCES})

    seen(f"PostgreSQL restarted {restarts} times: lost 0, all {took:.1f} s later")
    assert not lost(sent, studies_in(archive))
    assert node.stop() == 0
