"""If the decoder crashes, hangs or is exploited, its parent process continues."""

import ctypes
import errno
import json
import logging
import os
import pickle
import posix
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from functools import partial
from io import BytesIO
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import RLELossless

import dicom_node.log.format  # noqa: F401 - as in each process that has a decoding child
from dicom_node.dataset.part10 import pydicom_silenced
from dicom_node.decoder import client, server
from dicom_node.decoder.client import ChildDiedError, DecoderProcess
from dicom_node.demo.phantom_instance import phantom_dataset
from dicom_node.errors import AnalysisError, NotAnalyzedError
from dicom_node.log.context import LoggedInstance, current_instance, instance_context
from dicom_node.pixels.decode import DecodedInstance, DecodeOptions, decode_file
from dicom_node.pixels.intended_use import ANY_USE
from dicom_node.pixels.rendering import list_attributes
from dicom_node.pixels.screening import ScreeningRules
from dicom_node.reasons import Unanalyzed
from dicom_node.results.encode import encode_examination
from dicom_node.results.examination import conclude
from inference.phantom.long_bone import draw_phantom
from inference.plain_image import NotAnImageError, read_plain_image
from tests.support.examinations import MODEL, NEGATIVE, Studies
from tests.support.examinations import OPTIONS as EXAMINATION
from tests.support.node import alive

RULES = ScreeningRules(
    max_study_age_days=0, intended_use=ANY_USE, received_on=date(2024, 3, 10)
)
OPTIONS = DecodeOptions(window=1, max_megapixels=10)
BEGIN = "__import__('logging').getLogger('dicom_node').warning('begun')"
SLEEP = "__import__('time').sleep(100)"
PHANTOM = draw_phantom(broken=True, rows=64, columns=48)


@pytest.fixture(scope="module")
def child() -> Iterator[DecoderProcess]:
    child = DecoderProcess(timeout_s=20, memory_mb=1024)
    yield child
    child.close()


@pytest.fixture
def short_deadline_child(child: DecoderProcess) -> Iterator[DecoderProcess]:
    short = DecoderProcess(timeout_s=0.3, memory_mb=1024, server=child.server)
    yield short
    short.close()


def wait_until_dead(pid: int) -> None:
    deadline = time.monotonic() + 20
    while alive(pid):
        assert time.monotonic() < deadline, f"process {pid} outlived its parent"
        time.sleep(0.01)


def test_child_decodes_the_same_pixels_as_the_parent(
    child: DecoderProcess, tmp_path: Path
) -> None:
    path = tmp_path / "phantom.dcm"
    phantom_dataset(PHANTOM).save_as(path, enforce_file_format=True)

    actual = child.run(decode_file, path, RULES, OPTIONS)

    expected = decode_file(path, RULES, OPTIONS)
    np.testing.assert_array_equal(actual.radiograph.pixels, expected.radiograph.pixels)
    assert actual.picture_digest == expected.picture_digest


def test_child_reports_the_reason_of_an_instance_that_is_not_analyzed(
    child: DecoderProcess, tmp_path: Path
) -> None:
    path = tmp_path / "phantom.dcm"
    dataset = phantom_dataset(PHANTOM)
    dataset.NumberOfFrames = 2
    dataset.save_as(path, enforce_file_format=True)

    with pytest.raises(NotAnalyzedError, match=r"\(0028,0008\) is 2") as caught:
        child.run(decode_file, path, RULES, OPTIONS)

    assert caught.value.reason is Unanalyzed.FRAMES


def test_child_reports_errors_of_plain_images(child: DecoderProcess) -> None:
    with pytest.raises(NotAnImageError, match="PNG, JPEG"):
        child.run(partial(read_plain_image, max_megapixels=1), b"no image")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_child_decodes_plain_images_to_the_same_pixels(
    kind: str, mode: str, child: DecoderProcess
) -> None:
    if (kind, mode) == ("JPEG", "RGBA"):
        pytest.skip("JPEG has no transparency")
    file = BytesIO()
    drawn = (draw_phantom(broken=True).pixels >> 4).astype(np.uint8)
    Image.fromarray(drawn).convert(mode).save(file, kind)
    read = partial(read_plain_image, max_megapixels=10)

    pixels = child.run(read, file.getvalue()).pixels

    np.testing.assert_array_equal(pixels, read(file.getvalue()).pixels)


@pytest.mark.parametrize("encoding", ["ISO 2022 IR 159", "GB18030", "windows-1256"])
def test_attributes_are_read_in_any_character_set(
    encoding: str, child: DecoderProcess, tmp_path: Path
) -> None:
    path = tmp_path / "phantom.dcm"
    dataset = phantom_dataset(PHANTOM)
    with pydicom_silenced():
        dataset.SpecificCharacterSet = encoding
        dataset.PatientComments = b"\xc4\xe3\x1b$(D0l"
        dataset.save_as(path, enforce_file_format=True)

    assert child.run(list_attributes, path, 1) == list_attributes(path, 1)


@pytest.mark.parametrize(
    ("function", "argument", "message"),
    [
        pytest.param(signal.raise_signal, signal.SIGKILL, "SIGKILL", id="killed"),
        pytest.param(ctypes.string_at, 0, "SIGSEGV", id="crashed"),
        # posix, because coverage.py replaces os._exit.
        pytest.param(posix._exit, 3, "exit status 3", id="exited"),
        pytest.param(bytearray, 20 << 30, "more than 1024 MB", id="memory"),
    ],
)
def test_death_of_the_child_fails_one_call_and_the_child_is_replaced(
    function: object, argument: int, message: str, child: DecoderProcess
) -> None:
    with pytest.raises(ChildDiedError, match=message):
        child.run(function, argument)  # type: ignore[arg-type]

    assert child.run(max, 1, 2) == 2


def test_hanging_child_is_killed_at_the_deadline(
    short_deadline_child: DecoderProcess,
) -> None:
    before = short_deadline_child.pid
    start = time.monotonic()

    with pytest.raises(ChildDiedError, match=r"longer than 0\.3 s"):
        short_deadline_child.run(time.sleep, 100)

    assert time.monotonic() - start < 10
    assert before is not None
    assert not alive(before)
    assert short_deadline_child.run(max, 1, 2) == 2


def test_child_is_replaced_after_its_last_call(
    child: DecoderProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CALLS", 3)
    callers = [child.run(os.getpid) for _ in range(7)]

    assert max(callers.count(each) for each in callers) == 3
    assert not alive(callers[0])


def test_killed_child_is_replaced_without_importing_the_codecs_again(
    short_deadline_child: DecoderProcess,
) -> None:
    server = short_deadline_child.server.pid
    for _ in range(5):
        with pytest.raises(ChildDiedError, match="longer than"):
            short_deadline_child.run(time.sleep, 100)

    assert short_deadline_child.run(max, 1, 2) == 2
    assert server is not None
    assert short_deadline_child.server.pid == server


def test_dead_fork_server_is_replaced(child: DecoderProcess) -> None:
    child_pid, server = child.pid, child.server.pid
    assert child_pid is not None
    assert server is not None
    os.kill(server, signal.SIGKILL)
    wait_until_dead(child_pid)  # the kernel kills the child

    assert child.run(max, 1, 2) == 2
    assert child.server.pid != server


def test_death_of_the_fork_server_fails_only_the_current_call(
    child: DecoderProcess, caplog: pytest.LogCaptureFixture
) -> None:
    server = child.server.pid
    assert server is not None
    begun = Event()
    caplog.handler.addFilter(lambda _: begun.set() or True)
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(child.run, eval, f"{BEGIN} or {SLEEP}")
        assert begun.wait(20)
        os.kill(server, signal.SIGKILL)

    assert isinstance(call.exception(), ChildDiedError)
    assert child.run(max, 1, 2) == 2


def test_fork_server_has_one_thread_and_no_extra_file_descriptors(
    child: DecoderProcess,
) -> None:
    process = Path(f"/proc/{child.server.pid}")

    assert len(list((process / "task").iterdir())) == 1
    # Three of /dev/null, and the command socket. None belongs to a child.
    assert len(list((process / "fd").iterdir())) == 4


def test_death_of_an_idle_child_fails_no_call(
    child: DecoderProcess,
) -> None:
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    wait_until_dead(child.pid)

    assert child.run(max, 1, 2) == 2


def test_error_for_deep_recursion_does_not_quote_the_input(
    child: DecoderProcess,
) -> None:
    with pytest.raises(AnalysisError, match=r"RecursionError in .*decoder\.py"):
        child.run(json.loads, "[" * 100_000)


def test_unexpected_error_names_its_type_but_not_its_message(
    child: DecoderProcess,
) -> None:
    with pytest.raises(AnalysisError, match="JSONDecodeError") as caught:
        child.run(json.loads, "Secret^Name")

    assert "Secret" not in str(caught.value)


def test_other_calls_succeed_if_a_concurrent_call_kills_the_child(
    child: DecoderProcess,
) -> None:
    def call(number: int) -> int:
        if number == 3:
            child.run(signal.raise_signal, signal.SIGKILL)
        return int(child.run(max, number, 0))

    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(call, number) for number in range(8)]

    assert isinstance(calls[3].exception(), ChildDiedError)
    results = [future.result() for n, future in enumerate(calls) if n != 3]
    assert results == [0, 1, 2, 4, 5, 6, 7]


def test_parent_logs_the_records_of_the_child(
    child: DecoderProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "phantom.dcm"
    dataset = phantom_dataset(PHANTOM)
    dataset.PresentationLUTShape = "INVERSE"
    dataset.save_as(path, enforce_file_format=True)

    subjects: list[LoggedInstance | None] = []
    caplog.handler.addFilter(lambda _: subjects.append(current_instance()) or True)
    with caplog.at_level(logging.WARNING), instance_context("1.2.3", "a1"):
        child.run(decode_file, path, RULES, OPTIONS)

    [record] = caplog.records
    assert subjects == [LoggedInstance("1.2.3", "a1")]
    assert record.name == "dicom_node.pixels.grayscale"
    assert f"{dataset.SOPInstanceUID}: Presentation LUT Shape" in record.message


# Less memory than the image needs. The codec is written in Rust: if it gets no memory,
# it aborts or panics.
@pytest.mark.parametrize("memory_mb", [640, 760])
def test_codec_without_memory_names_the_setting(
    child: DecoderProcess, tmp_path: Path, memory_mb: int
) -> None:
    dataset = phantom_dataset(draw_phantom(broken=True, rows=64, columns=64, seed=1))
    dataset.Rows = dataset.Columns = 8000
    dataset.PixelData = bytes(8000 * 8000 * 2)
    dataset.compress(RLELossless)
    path = tmp_path / "large.dcm"
    dataset.save_as(path, enforce_file_format=True)
    rules = ScreeningRules(0, ANY_USE, date(2024, 3, 10))
    small = DecoderProcess(timeout_s=60, memory_mb=memory_mb, server=child.server)

    with pytest.raises(AnalysisError, match="decode_memory_mb under"):
        small.run(decode_file, path, rules, DecodeOptions(1, 100))

    small.close()


def test_arguments_that_need_too_much_memory_name_the_setting(
    child: DecoderProcess,
) -> None:
    small = DecoderProcess(timeout_s=60, memory_mb=640, server=child.server)

    with pytest.raises(ChildDiedError, match="more than 640 MB"):
        small.run(np.size, np.zeros(700 * 2**20, np.uint8))

    small.close()


@pytest.fixture
def forging_child(monkeypatch: pytest.MonkeyPatch) -> Iterator[DecoderProcess]:
    """A decoder that executes the argument of a call as code; see forging_child.py."""
    monkeypatch.setattr(server, "MODULE", "tests.support.forging_child")
    child = DecoderProcess(timeout_s=2, memory_mb=512)
    yield child
    child.close()


def decoded(code: str) -> DecodedInstance:
    """Raise NotImplementedError. The tests use only the return type of this function.

    The forging child executes `code` instead. The parent process compares the response
    with the return type.
    """
    raise NotImplementedError(code)


def number(code: str) -> float:
    raise NotImplementedError(code)


class Marker:
    """An object that creates a file when its pickle is loaded."""

    def __init__(self, path: Path) -> None:
        self._call = open, (os.fspath(path), "w")

    def __reduce__(self) -> tuple[object, ...]:
        return self._call


RADIOGRAPH = {
    "pixels": [0, 2, 3],
    "pixel_spacing": 0.1,
    "source_shape": [2, 3],
    "span": None,
    "assumptions": [],
}


def forged(**changes: object) -> str:
    """Return code that sends a decoded instance, with changes to its radiograph."""
    digests = {"picture_digest": "ab", "identity_digest": "cd"}
    decoded = {"radiograph": RADIOGRAPH | changes, **digests}
    return f"answer(['returned', {decoded!r}], bytes(6))"


FORGED = {
    "nothing": "answer(b'')",
    "nested too deeply": "answer(b'[' * 10**6)",
    "a pickle": f"answer({pickle.dumps(('returned', None))!r})",
    "text for a dataclass": "answer(['returned', 'text'])",
    "fields are missing": "answer(['returned', {'radiograph': {}}])",
    "another field": forged(another=1),
    "an unknown buffer": forged(pixels=[1, 2, 3]),
    "a negative buffer": forged(pixels=[-1, 2, 3]),
    "an array of another size": forged(pixels=[0, 2, 2]),
    "an array of a negative size": forged(pixels=[0, -1, 3]),
    "an array of one dimension": forged(pixels=[0, 6]),
    "a text for a number": forged(pixel_spacing="0.1"),
    "a number for a text": forged(assumptions=[1]),
    "a fraction for a whole number": forged(source_shape=[2.0, 3.0]),
    "three numbers for two": forged(source_shape=[2, 3, 4]),
    "an unknown type of response": "answer(['run', None])",
    "another error": "answer(['raised', ['SystemExit', '1', None]])",
    "another reason": "answer(['raised', ['AnalysisError', '', ['Failure', 'no']]])",
    "another logger": "answer(['log', ['root', 40, 'text']])",
    "a new logger": "answer(['log', ['dicom_node.new', 40, 'text']])",
    "a new log level": "answer(['log', ['dicom_node', 10**9, 'text']])",
    "many log records": "for _ in range(101): answer(['log', ['dicom_node', 10, '']])",
    "a huge head": "send(struct.pack('<IQ', 0, 2**40))",
    "many buffers": "send(struct.pack('<IQ', 2**31, 2))",
    "a huge buffer": "send(struct.pack('<IQQ', 1, 2, 2**28))",
}


def test_parent_does_not_load_pickles_of_the_child(
    forging_child: DecoderProcess, tmp_path: Path
) -> None:
    created = tmp_path / "created"
    pickled = pickle.dumps(("returned", Marker(created)))

    with pytest.raises(ChildDiedError, match="a response that its code does not send"):
        forging_child.run(decoded, f"answer({pickled!r})")

    assert not created.exists()


def test_parent_accepts_a_valid_response(forging_child: DecoderProcess) -> None:
    response = forging_child.run(decoded, forged())

    assert response.radiograph.pixels.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert response.radiograph.source_shape == (2, 3)
    assert response.identity_digest == "cd"


@pytest.mark.parametrize("code", FORGED.values(), ids=FORGED.keys())
def test_parent_kills_the_child_after_a_forged_response(
    code: str, forging_child: DecoderProcess
) -> None:
    before = forging_child.pid
    assert before is not None

    with pytest.raises(ChildDiedError, match="a response that its code does not send"):
        forging_child.run(decoded, code)

    assert not alive(before)
    assert forging_child.run(number, "answer(['returned', 2.5])") == 2.5


def test_forged_log_record_is_logged_as_one_line(
    forging_child: DecoderProcess, caplog: pytest.LogCaptureFixture
) -> None:
    text = "\nERROR root: \x1b[31m" + "x" * 2000
    with caplog.at_level(logging.WARNING):
        record = f"answer(['log', ['dicom_node', 30, {text!r}]])"
        forging_child.run(number, f"{record}; answer(['returned', 1])")

    [record] = caplog.records
    assert record.message.startswith(" ERROR root:  [31mxxx")
    assert len(record.message) == 1000


STALLS = {
    "log records": "import time\n"
    "while True: answer(['log', ['dicom_node', 10, '']]); time.sleep(0.1)",
    "half a message": "send(b'12'); import time; time.sleep(100)",
    "half a head": "send(struct.pack('<IQ', 0, 9)); import time; time.sleep(100)",
    "a closed socket": "END.close(); import time; time.sleep(100)",
}


@pytest.mark.parametrize("code", STALLS.values(), ids=STALLS.keys())
def test_child_that_stalls_is_killed_at_the_deadline(
    code: str, forging_child: DecoderProcess
) -> None:
    before = forging_child.pid
    assert before is not None
    start = time.monotonic()

    with pytest.raises(ChildDiedError):
        forging_child.run(decoded, code)

    assert time.monotonic() - start < 10
    assert not alive(before)


def test_child_that_does_not_read_its_call_is_killed_at_the_deadline(
    short_deadline_child: DecoderProcess,
) -> None:
    assert short_deadline_child.pid is not None
    os.kill(short_deadline_child.pid, signal.SIGSTOP)

    with pytest.raises(ChildDiedError, match=r"longer than 0\.3 s"):
        short_deadline_child.run(len, bytes(10_000_000))

    assert short_deadline_child.run(max, 1, 2) == 2


def test_error_for_a_missing_file_names_the_cause(
    child: DecoderProcess, tmp_path: Path
) -> None:
    with pytest.raises(AnalysisError, match="missing from the disk"):
        child.run(decode_file, tmp_path / "gone.dcm", RULES, OPTIONS)


# The first page of a process is not mapped, so reading it fails with EIO.
UNREADABLE = Path("/proc/self/mem")


@pytest.fixture
def failed_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the listing of a folder fail, too."""

    def fail(_: object) -> None:
        raise OSError(errno.EIO, "The disk failed")

    monkeypatch.setattr(client.os, "listdir", fail)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (decode_file, (RULES, OPTIONS)),
        (list_attributes, (10,)),
        (Path.read_bytes, ()),
    ],
)
@pytest.mark.usefixtures("failed_disk")
def test_disk_that_fails_while_the_child_reads_is_an_os_error(
    child: DecoderProcess,
    function: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    with pytest.raises(OSError, match="The disk failed"):
        child.run(function, UNREADABLE, *arguments)


def test_single_file_that_cannot_be_read_fails_for_good(child: DecoderProcess) -> None:
    """Otherwise the call would be repeated without end, and block other images."""
    with pytest.raises(AnalysisError, match="cannot be read: Input/output error"):
        child.run(decode_file, UNREADABLE, RULES, OPTIONS)


@pytest.mark.usefixtures("failed_disk")
def test_examination_with_an_image_that_cannot_be_read_now_is_an_os_error(
    child: DecoderProcess, tmp_path: Path
) -> None:
    readable, other = (Studies(tmp_path).image(each, NEGATIVE) for each in (1, 2))
    unreadable = replace(other, instance=replace(other.instance, path=UNREADABLE))
    examination = conclude([readable, unreadable])

    with pytest.raises(OSError, match="The disk failed"):
        child.run(encode_examination, examination, MODEL, EXAMINATION)


def test_child_that_claims_a_read_error_is_ended(
    forging_child: DecoderProcess,
) -> None:
    before = forging_child.pid
    assert before is not None

    with pytest.raises(ChildDiedError, match="the file could be read"):
        forging_child.run(decoded, "answer(['raised', ['FileReadError', '', None]])")

    assert not alive(before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_child_ignores_sigterm_and_sigint(child: DecoderProcess, number: int) -> None:
    child.run(signal.raise_signal, number)

    assert child.run(max, 1, 2) == 2


def test_child_does_not_import_torch(child: DecoderProcess) -> None:
    loaded = child.run(eval, "'torch' in __import__('sys').modules")

    assert not loaded


def test_close_ends_the_child_and_the_fork_server() -> None:
    child = DecoderProcess(timeout_s=1, memory_mb=1024)
    pid, server = child.pid, child.server.pid
    assert pid is not None
    assert server is not None

    child.close()
    child.close()

    assert not alive(pid)
    assert not alive(server)


PARENT = """
import sys
from concurrent.futures import ThreadPoolExecutor
from dicom_node.decoder.client import DecoderProcess
child = DecoderProcess(timeout_s=100, memory_mb=1024)
print(child.pid, child.server.pid, flush=True)
child.run(eval, sys.argv[1])
"""


@pytest.mark.parametrize("state", [SLEEP, "9 ** 9 ** 9"])
def test_busy_child_dies_with_its_parent(state: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, f"{BEGIN} or {state}"],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        pids = [int(each) for each in parent.stdout.readline().split()]
        assert parent.stderr.readline() == "begun\n"
        parent.kill()

    for pid in pids:
        wait_until_dead(pid)


def test_uncaught_exception_of_the_child_is_one_line_in_the_parent_log(
    child: DecoderProcess, caplog: pytest.LogCaptureFixture
) -> None:
    # The exception is raised in a destructor, since the child cannot start threads.
    code = """
class Codec:
    def __del__(self):
        {}["DOE^JANE"]
Codec()
"""
    child.run(exec, code, {})

    [record] = caplog.records
    message = record.getMessage()
    assert message.startswith("Ignored exception: KeyError in __del__")
    assert "DOE" not in message
