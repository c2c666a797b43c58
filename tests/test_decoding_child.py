"""The child takes what bytes from outside may do, and its parent goes on."""

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from dicom_node.decode import DecodeOptions, decode_file
from dicom_node.decoding_child import ChildDiedError, DecodingChild
from dicom_node.errors import AnalysisError, NotAnalyzedError
from dicom_node.phantom_instance import phantom_dataset
from dicom_node.reasons import Unanalyzed
from dicom_node.screening import ScreeningRules
from dicom_node.steps import Subject, about, subject
from inference.phantom import draw_phantom
from inference.plain_image import NotAnImageError, read_plain_image
from tests.served import alive

RULES = ScreeningRules(max_study_age_days=0, body_parts=(), today=date(2024, 3, 10))
OPTIONS = DecodeOptions(window=1, max_megapixels=10)
PHANTOM = draw_phantom(broken=True, rows=64, columns=48)


@pytest.fixture(scope="module")
def child() -> Iterator[DecodingChild]:
    child = DecodingChild(timeout_s=20, memory_mb=1024)
    yield child
    child.close()


@pytest.fixture
def hasty() -> Iterator[DecodingChild]:
    child = DecodingChild(timeout_s=0.3, memory_mb=1024)
    yield child
    child.close()


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while alive(pid):
        assert time.monotonic() < deadline, f"process {pid} outlived its parent"
        time.sleep(0.01)


def test_instance_decoded_in_the_child_is_the_same(
    child: DecodingChild, tmp_path: Path
) -> None:
    path = tmp_path / "phantom.dcm"
    phantom_dataset(PHANTOM).save_as(path, enforce_file_format=True)

    theirs = child.run(decode_file, path, RULES, OPTIONS)

    ours = decode_file(path, RULES, OPTIONS)
    np.testing.assert_array_equal(theirs.radiograph.pixels, ours.radiograph.pixels)
    assert theirs.picture_digest == ours.picture_digest


def test_reasons_come_through(child: DecodingChild, tmp_path: Path) -> None:
    path = tmp_path / "phantom.dcm"
    dataset = phantom_dataset(PHANTOM)
    dataset.NumberOfFrames = 2
    dataset.save_as(path, enforce_file_format=True)

    with pytest.raises(NotAnalyzedError, match=r"\(0028,0008\) is 2") as caught:
        child.run(decode_file, path, RULES, OPTIONS)

    assert caught.value.reason is Unanalyzed.FRAMES


def test_errors_of_plain_images_come_through(child: DecodingChild) -> None:
    with pytest.raises(NotAnImageError, match="PNG, JPEG"):
        child.run(partial(read_plain_image, max_megapixels=1), b"no image")


@pytest.mark.parametrize(
    ("function", "argument", "reason"),
    [
        pytest.param(signal.raise_signal, signal.SIGKILL, "SIGKILL", id="killed"),
        pytest.param(ctypes.string_at, 0, "SIGSEGV", id="crashed"),
        pytest.param(os._exit, 3, "exit status 3", id="left"),
        pytest.param(bytearray, 20 << 30, "more than 1024 MB", id="bloated"),
    ],
)
def test_dead_child_fails_one_call_and_is_replaced(
    function: object, argument: int, reason: str, child: DecodingChild
) -> None:
    with pytest.raises(ChildDiedError, match=reason):
        child.run(function, argument)  # type: ignore[arg-type]

    assert child.run(max, 1, 2) == 2


def test_hanging_child_is_killed_at_the_deadline(hasty: DecodingChild) -> None:
    before = hasty.pid
    start = time.monotonic()

    with pytest.raises(ChildDiedError, match=r"longer than 0\.3 s"):
        hasty.run(time.sleep, 100)

    assert time.monotonic() - start < 10
    assert before is not None
    assert not alive(before)
    assert hasty.run(max, 1, 2) == 2


def test_child_that_dies_while_idle_is_held_against_nobody(
    child: DecodingChild,
) -> None:
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    wait_until_gone(child.pid)

    assert child.run(max, 1, 2) == 2


def test_deep_recursion_is_an_error_that_quotes_nothing(child: DecodingChild) -> None:
    with pytest.raises(AnalysisError, match=r"RecursionError in .*decoder\.py"):
        child.run(json.loads, "[" * 100_000)


def test_unexpected_error_names_its_place_but_not_its_message(
    child: DecodingChild,
) -> None:
    with pytest.raises(AnalysisError, match="JSONDecodeError") as caught:
        child.run(json.loads, "Secret^Name")

    assert "Secret" not in str(caught.value)


def test_innocent_calls_beside_a_killer_succeed(child: DecodingChild) -> None:
    def call(number: int) -> int:
        if number == 3:
            child.run(signal.raise_signal, signal.SIGKILL)
        return int(child.run(max, number, 0))

    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(call, number) for number in range(8)]

    assert isinstance(calls[3].exception(), ChildDiedError)
    answers = [answer.result() for n, answer in enumerate(calls) if n != 3]
    assert answers == [0, 1, 2, 4, 5, 6, 7]


def test_what_the_child_logs_is_logged_here(
    child: DecodingChild, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "phantom.dcm"
    dataset = phantom_dataset(PHANTOM)
    dataset.PresentationLUTShape = "INVERSE"
    dataset.save_as(path, enforce_file_format=True)

    subjects: list[Subject | None] = []
    caplog.handler.addFilter(lambda _: subjects.append(subject()) or True)
    with caplog.at_level(logging.WARNING), about("1.2.3", "a1"):
        child.run(decode_file, path, RULES, OPTIONS)

    [record] = caplog.records
    assert subjects == [Subject("1.2.3", "a1")]
    assert record.name == "dicom_node.lookup"
    assert f"{dataset.SOPInstanceUID}: Presentation LUT Shape" in record.message


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_child_that_is_asked_to_end_finishes_its_call(
    child: DecodingChild, number: int
) -> None:
    child.run(signal.raise_signal, number)

    assert child.run(max, 1, 2) == 2


def test_child_is_small_and_knows_no_torch(child: DecodingChild) -> None:
    loaded = child.run(eval, "'torch' in __import__('sys').modules")

    assert not loaded


def test_closed_child_is_gone() -> None:
    child = DecodingChild(timeout_s=1, memory_mb=1024)
    pid = child.pid
    assert pid is not None

    child.close()
    child.close()

    assert not alive(pid)


PARENT = """
import sys
from concurrent.futures import ThreadPoolExecutor
from dicom_node.decoding_child import DecodingChild
child = DecodingChild(timeout_s=100, memory_mb=1024)
print(child.pid, flush=True)
child.run(eval, sys.argv[1])
"""


@pytest.mark.parametrize("state", ["__import__('time').sleep(100)", "9 ** 9 ** 9"])
def test_child_dies_with_its_parent_however_busy_it_is(
    state: str, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    program = f"open({os.fspath(begun)!r}, 'w').close() or {state}"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, program],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        while not begun.exists():
            assert parent.poll() is None
            time.sleep(0.01)
        parent.kill()

    wait_until_gone(pid)


def test_an_exception_of_a_thread_is_one_line_in_the_log_of_the_parent(
    child: DecodingChild, caplog: pytest.LogCaptureFixture
) -> None:
    code = """
import threading
thread = threading.Thread(target=lambda: {}["DOE^JANE"], name="codec")
thread.start()
thread.join()
"""
    child.run(exec, code, {})

    [record] = caplog.records
    said = record.getMessage()
    assert said.startswith("Uncaught exception in thread codec: KeyError in <lambda>")
    assert "DOE" not in said
