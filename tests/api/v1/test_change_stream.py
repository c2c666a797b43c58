"""The stream of changes, on SQLite and PostgreSQL."""

import asyncio
from functools import partial

import pytest
import sqlalchemy as sa

from api.v1 import change_stream
from api.v1.change_stream import ChangeStream
from dicom_node.journal.journal import Journal
from dicom_node.queries.changes import ChangeFeed
from tests.support.journals import Receive

pytestmark = pytest.mark.integration


def test_changes_without_a_listener_are_not_reported_later(
    journal: Journal,
    engine: sa.Engine,
    receive: Receive,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(change_stream, "POLL_S", 0.02)
    missed, changed = receive(), receive()

    async def messages() -> list[str]:
        changes = ChangeStream(partial(ChangeFeed, engine), lambda: False)
        first = changes.stream(lambda: True)
        received = [await anext(first)]
        await first.aclose()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
        journal.record(missed)
        second = changes.stream(lambda: True)
        received.append(await anext(second))
        journal.record(changed)
        received.append(await anext(second))
        await second.aclose()
        return received

    *begun, change = asyncio.run(messages())

    assert all("event: begun" in each for each in begun)
    assert changed.id in change
    assert missed.id not in change
