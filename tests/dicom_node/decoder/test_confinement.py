"""The confinement of a decoder that an attacker controls."""

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.settings import load
from dicom_node.commands import check
from dicom_node.decoder.client import DecoderProcess
from dicom_node.decoder.confinement import (
    ALLOWED,
    MACHINES,
    NOT_EXECUTABLE,
    SECCOMP,
    TO_ITSELF,
    Confinement,
    offered,
)
from dicom_node.errors import AnalysisError

ROOT = Path(__file__).parents[3]
SECRET = "a-token-of-the-archive"  # noqa: S105 - a made-up token

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture(scope="module")
def child() -> Iterator[DecoderProcess]:
    os.environ["STOW_TOKEN"] = SECRET
    with Path("/etc/passwd").open() as file:
        os.set_inheritable(file.fileno(), True)  # noqa: FBT003
        child = DecoderProcess(timeout_s=20, memory_mb=1024)
    del os.environ["STOW_TOKEN"]
    yield child
    child.close()


@pytest.fixture(scope="module")
def confined(child: DecoderProcess) -> DecoderProcess:
    """A decoder on a kernel that offers both Landlock and seccomp.

    On another kernel, the test is skipped.
    """
    if not child.confinement.is_complete:
        pytest.skip(f"this kernel has {child.confinement}")
    return child


PARENT = os.getpid()
ESCAPES = {
    "read a file": "open('/etc/passwd').read()",
    "read the parent's environment": f"open('/proc/{PARENT}/environ').read()",
    "read the parent's memory": f"open('/proc/{PARENT}/mem', 'rb').read(1)",
    "read its own memory as a file": "open('/proc/self/mem', 'rb').read(1)",
    "write a file": "open('/tmp/escaped', 'w')",
    "append to a file": "open('/dev/shm/escaped', 'a')",
    "list a folder": "os.listdir('/')",
    "stat a file": "os.stat('/etc/passwd')",
    "remove a file": "os.unlink('/tmp/escaped')",
    "rename a file": "os.rename('/tmp/escaped', '/tmp/other')",
    "make a folder": "os.mkdir('/tmp/escaped')",
    "make a link": "os.symlink('/etc/passwd', '/tmp/escaped')",
    "make a file in memory": "os.memfd_create('escaped')",
    "make a pipe": "os.pipe()",
    "write to a descriptor": "os.write(1, b'escaped')",
    "duplicate a descriptor": "os.dup(0)",
    "open an IPv4 socket": "socket.socket(socket.AF_INET)",
    "open an IPv6 socket": "socket.socket(socket.AF_INET6)",
    "open a UDP socket": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "open a Unix socket": "socket.socket(socket.AF_UNIX)",
    "make a pair of sockets": "socket.socketpair()",
    "execute a program": "os.execv('/bin/true', ['true'])",
    "spawn a program": "os.posix_spawn('/bin/true', ['true'], {})",
    "fork": "os.fork()",
    "signal the parent": f"os.kill({PARENT}, 0)",
    "signal all processes": "os.kill(-1, 0)",
    "stop a thread of the parent": f"signal.pidfd_send_signal(0, 9) or {PARENT}",
    "raise a limit": "resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))",
    "become another user": "os.setuid(1)",
    "lower its priority": "os.nice(1)",
}


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES.keys())
def test_confined_child_cannot(escape: str, confined: DecoderProcess) -> None:
    names = re.findall(r"\b(os|socket|signal|resource)\.", escape)
    code = "".join(f"import {name}\n" for name in names) + escape

    with pytest.raises(
        AnalysisError, match=r"unexpectedly: (Permission|Value)Error in"
    ):
        confined.run(exec, code, {})  # resource raises ValueError


def test_a_child_cannot_start_a_thread(confined: DecoderProcess) -> None:
    code = "import threading\nthreading.Thread(target=print).start()"

    with pytest.raises(AnalysisError, match="unexpectedly: RuntimeError in start"):
        confined.run(exec, code, {})


# The kernel's system calls for uprobes, which bypass seccomp filters.
UPROBES = {"x86_64": {335, 336}}

# This code makes each system call in `numbers`, and asserts that it fails with EPERM.
EVERY_CALL = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
passed = []
for number in {numbers}:
    ctypes.set_errno(0)
    if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != 1:
        passed.append(number)
assert not passed, passed
"""


def test_system_calls_that_are_not_listed_are_denied(confined: DecoderProcess) -> None:
    machine = os.uname().machine
    listed = [*ALLOWED.values(), *NOT_EXECUTABLE.values()]
    passed = {each[MACHINES.index(machine)] for each in listed}
    passed |= UPROBES.get(machine, set())
    numbers = [each for each in range(1024) if each not in passed]
    numbers += [0x40000000 + each for each in range(1024)]  # of the x32 ABI

    confined.run(exec, EVERY_CALL.format(numbers=numbers), {})


def test_a_child_cannot_make_memory_executable(confined: DecoderProcess) -> None:
    code = "import mmap\nmmap.mmap(-1, 4096, prot=mmap.PROT_READ | {})"

    confined.run(exec, code.format("mmap.PROT_WRITE"), {})
    with pytest.raises(AnalysisError, match="unexpectedly: PermissionError"):
        confined.run(exec, code.format("mmap.PROT_EXEC"), {})
    changed = (
        "import ctypes, mmap\n"
        "libc = ctypes.CDLL(None)\n"
        "memory = mmap.mmap(-1, 4096)\n"
        "start = ctypes.addressof(ctypes.c_char.from_buffer(memory))\n"
        "protect = lambda how: libc.mprotect(ctypes.c_void_p(start), 4096, how)\n"
        "assert (protect(3), protect(7)) == (0, -1)"
    )
    confined.run(exec, changed, {})


def test_the_environment_of_a_child_holds_no_secrets(child: DecoderProcess) -> None:
    environment = Path(f"/proc/{child.pid}/environ").read_text()

    names = {each.partition("=")[0] for each in environment.split("\0") if each}
    assert names <= {
        *("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PYTHONHOME", "TZ"),
        *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONPATH"),
        *("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"),
    }
    assert SECRET not in environment


def test_a_confined_child_knows_the_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times in results are local times. A confined child cannot read the zone."""
    monkeypatch.setenv("TZ", "Asia/Riyadh")
    child = DecoderProcess(timeout_s=60, memory_mb=4096)
    try:
        child.run(exec, "import time; assert time.localtime(0).tm_gmtoff == 10800", {})
    finally:
        child.close()


def test_a_child_holds_no_descriptors_of_its_parent(child: DecoderProcess) -> None:
    descriptors = list(Path(f"/proc/{child.pid}/fd").iterdir())

    assert len(descriptors) == 4  # three of /dev/null, and the socket


def test_a_child_has_one_thread_when_it_is_confined(child: DecoderProcess) -> None:
    assert len(list(Path(f"/proc/{child.pid}/task").iterdir())) == 1


# This program confines itself with one of the two layers, and opens a file. Its exit
# status is 0 if the layer denies this.
ALONE = """
import os
from dicom_node.decoder import confinement
confinement.{other} = lambda libc: 0
held = confinement.confine()
assert ({layer}) and not held.is_complete, held
try:
    open({path!r}, {mode!r})
except PermissionError:
    os._exit(0)
except OSError:
    os._exit(2)
os._exit(1)
"""


@pytest.mark.parametrize("mode", ["r", "w"])
@pytest.mark.parametrize(
    ("layer", "other"),
    [("held.landlock", "_seccomp"), ("held.seccomp", "_landlock")],
    ids=["Landlock", "seccomp"],
)
def test_each_layer_alone_denies_access_to_files(
    layer: str, other: str, mode: str, confined: DecoderProcess, tmp_path: Path
) -> None:
    del confined
    path = tmp_path / "file"
    path.write_text("content")
    code = ALONE.format(layer=layer, other=other, path=os.fspath(path), mode=mode)

    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)

    assert ended.returncode == 0
    assert path.read_text() == "content"


# This code simulates a kernel without Landlock and seccomp: the system calls of both
# fail with ENOSYS.
OLD_KERNEL = """
import os
from dicom_node.decoder import confinement
confinement.ERRNO, confinement.EPERM, confinement.ALLOW = 0x7FFF0000, 0, 0x00050026
confinement.ALLOWED = {"landlock_create_ruleset": (444, 444)}
confinement.ALLOWED["seccomp"] = confinement.SECCOMP
confinement.NOT_EXECUTABLE = confinement.TO_ITSELF = {}
import ctypes
libc = ctypes.CDLL(None)
libc.prctl(38, 1, 0, 0, 0)
assert confinement._seccomp(libc)
"""
DECODING = """
import logging
logging.basicConfig()
from dicom_node.decoder.client import DecoderProcess
child = DecoderProcess(timeout_s=20, memory_mb=1024)
print(confinement.offered(), child.confinement, child.run(max, 1, 2), sep="; ")
child.close()
"""


def test_child_decodes_and_logs_a_warning_on_a_kernel_without_confinement() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", OLD_KERNEL + DECODING],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )

    nothing = "no Landlock, no seccomp"
    assert ended.stdout == f"{nothing}; {nothing}; 2\n"
    assert f"Decoding process: {nothing}. This kernel does not support" in ended.stderr


def test_confinement_of_a_child_is_the_one_that_the_kernel_offers(
    child: DecoderProcess,
) -> None:
    assert offered() == child.confinement


def test_check_warns_of_a_kernel_without_confinement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seccomp_only = Confinement(landlock=0, seccomp=True)
    monkeypatch.setattr(check, "offered", lambda: seccomp_only)

    [warning] = [each for each in check._warnings(load(None, {})) if "kernel" in each]

    assert warning.startswith("decoding: no Landlock, seccomp. This kernel does not")


HEADERS = [
    (MACHINES.index("x86_64"), "x86_64-linux-gnu/asm/unistd_64.h"),
    (MACHINES.index("aarch64"), "asm-generic/unistd.h"),
]


@pytest.mark.parametrize(("column", "header"), HEADERS, ids=MACHINES)
def test_system_call_numbers_are_those_of_the_kernel_headers(
    column: int, header: str
) -> None:
    path = Path("/usr/include", header)
    if not path.exists():
        pytest.skip(f"{path} is not installed (linux-libc-dev)")
    defined = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text())
    known = {name: int(number) for name, number in defined}
    listed = {**ALLOWED, **NOT_EXECUTABLE, **TO_ITSELF, "seccomp": SECCOMP}

    numbers = {name: each[column] for name, each in listed.items()}

    assert numbers == {name: known[name] for name in numbers}
    assert ctypes.sizeof(ctypes.c_void_p) == 8
