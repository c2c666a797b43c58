"""Log lines as text or JSON: one line for each step, without patient data."""

import io
import json
import logging
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dicom_node.log.context import Stopwatch, instance_context, log_step
from dicom_node.log.format import JsonFormatter, TextFormatter

UID, ID = "1.2.826.0.1", "a" * 32
SECRET = "DOE^JANE"  # noqa: S105 - of a patient


class Log:
    """A separate logger, and the lines that it writes."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self.stream = io.StringIO()
        self.handler = logging.StreamHandler(self.stream)
        self.handler.setFormatter(formatter)
        self.logger = logging.Logger("test")  # noqa: LOG001 - not shared
        self.logger.addHandler(self.handler)

    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()

    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines()]


@pytest.fixture
def text() -> Log:
    return Log(TextFormatter("worker-0"))


@pytest.fixture
def structured() -> Log:
    return Log(JsonFormatter("worker-0"))


def test_a_step_is_one_line_of_text_with_uid_id_and_seconds(text: Log) -> None:
    with instance_context(UID, ID):
        log_step(text.logger, "not analyzed", "An ultrasound.", seconds=0.25)

    [line] = text.lines()
    expected = f"worker-0 INFO Not analyzed {UID} [{ID}] in 0.250 s: An ultrasound."
    assert line.endswith(expected)


def test_a_step_is_one_object_of_json(structured: Log) -> None:
    with instance_context(UID, ID):
        log_step(structured.logger, "received", "from\nCR1", seconds=0.5)

    [line] = structured.objects()
    time = datetime.fromisoformat(line.pop("time"))
    assert time.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - time) < timedelta(minutes=1)
    assert line == {
        "role": "worker-0",
        "level": "INFO",
        "message": f"Received {UID} [{ID}] in 0.500 s: from\nCR1",
        "sop_instance_uid": UID,
        "instance_id": ID,
        "step": "received",
        "seconds": 0.5,
    }


def test_records_during_work_on_an_instance_have_its_ids(
    text: Log, structured: Log
) -> None:
    for log in (text, structured):
        with instance_context(UID, ID):
            log.logger.warning("The disk is full")
        log.logger.warning("Ready")

    first, second = text.lines()
    assert first.endswith(f"WARNING The disk is full [{ID}]")
    assert second.endswith("WARNING Ready")
    one, other = structured.objects()
    assert (one["sop_instance_uid"], one["instance_id"]) == (UID, ID)
    assert "instance_id" not in other


def broken() -> None:
    try:
        {}[SECRET]
    except KeyError as error:
        raise ValueError(SECRET) from error


@pytest.mark.parametrize("form", [TextFormatter, JsonFormatter])
def test_exception_is_logged_by_type_and_location_without_its_message(
    form: type[TextFormatter | JsonFormatter],
) -> None:
    log = Log(form("api"))
    try:
        broken()
    except ValueError:
        log.logger.exception("An error of this program")

    output = log.stream.getvalue()
    assert SECRET not in output
    assert "ValueError" in output
    assert "KeyError" in output
    assert "in broken" in output


def test_record_that_another_handler_formatted_first_hides_the_message(
    structured: Log,
) -> None:
    # Formatters of the standard library keep the text of the exception in the record.
    structured.logger.handlers.insert(0, logging.StreamHandler(io.StringIO()))
    try:
        broken()
    except ValueError:
        structured.logger.exception("An error of this program")

    [line] = structured.lines()
    assert SECRET not in line


def test_a_stage_that_fails_is_not_measured() -> None:
    watch = Stopwatch()

    with watch.stage("decode"):
        pass
    with pytest.raises(ZeroDivisionError), watch.stage("classify"):
        raise ZeroDivisionError

    assert list(watch.seconds) == ["decode"]
    assert watch.seconds["decode"] >= 0


UNCAUGHT = f"""
import asyncio, functools, gc, logging, sys, threading
from dicom_node.log.format import configure_logging

SECRET = "{SECRET}"
configure_logging("worker-0", sys.argv[1])


def broken(*_):
    try:
        raise KeyError(SECRET)
    except KeyError:
        raise ValueError(SECRET + "\\nof two lines")


class Ends:
    def __del__(self):
        broken()


async def serve():
    loop = asyncio.get_running_loop()
    loop.call_soon(functools.partial(broken, SECRET))
    loop.create_task(wait(), name=SECRET)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
    loop.call_exception_handler({{"message": "Odd\\n" + SECRET}})


async def wait():
    broken()


thread = threading.Thread(target=broken, name="association")
thread.start()
thread.join()
threading.Thread(target=sys.exit).start()
Ends()
asyncio.run(serve())
logging.getLogger("dicom_node").error("%d of %s", SECRET)
try:
    broken()
except ValueError:
    import traceback
    logging.getLogger("dicom_node").error("Failed: %s", traceback.format_exc())
broken()
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_uncaught_exception_is_one_line_without_its_message(
    form: str,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNCAUGHT, form],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert SECRET not in done.stdout + done.stderr
    lines = done.stderr.splitlines()
    if form == "json":
        entries = [json.loads(line) for line in lines]
        assert {each["role"] for each in entries} == {"worker-0"}
        messages = [f"{each['level']} {each['message']}" for each in entries]
    else:
        messages = [line.partition(" worker-0 ")[2] for line in lines]
    at = r"ValueError in broken \(<string>:\d+\)"
    cause = r", from KeyError in broken \(<string>:\d+\)"
    expected = [
        rf"ERROR Uncaught exception in thread association: {at} < run \(.*{cause}",
        rf"ERROR Ignored exception: {at} < __del__ \(<string>:\d+\){cause}",
        rf"ERROR Uncaught exception in an event loop: {at} < _run \(.*{cause}",
        rf"ERROR Uncaught exception in an event loop: {at} < wait \(.*{cause}",
        "ERROR Odd",
        r"ERROR A line of dicom_node cannot be logged: TypeError in getMessage \(.*",
        'ERROR Failed: Traceback: File "<string>", line .*, in broken',
        rf"CRITICAL Uncaught exception: {at} < <module> \(<string>:\d+\){cause}",
    ]
    assert len(messages) == len(expected), messages
    for message, pattern in zip(messages, expected, strict=True):
        assert re.fullmatch(pattern, message), message
