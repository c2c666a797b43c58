"""Removes all rights of a process except those that decoding needs.

There are three layers. Each is permanent, and also applies to later child processes:

- Resource limits: no file can grow, and no core is dumped.
- Landlock (Linux 5.13): no file or directory can be opened. With later versions, no TCP
  socket can be bound or connected, and no signal can be sent to another process.
- seccomp: system calls that are not listed below fail with EPERM. The process cannot
  open files, connect sockets, execute programs, fork, trace or signal other processes,
  or get new executable memory.

The numbers in this module are those of the kernel. They are documented in landlock(7),
seccomp(2), and the headers that the comments name.
"""

import ctypes
import os
import resource
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h

# linux/landlock.h. The numbers of these system calls are the same on all machines.
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446
LANDLOCK_CREATE_RULESET_VERSION = 1
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""Number of rights on files, by the first version of Landlock that has this number."""
NETWORK_VERSION, SCOPE_VERSION = 4, 6
BIND_AND_CONNECT = 0b11
ABSTRACT_SOCKETS_AND_SIGNALS = 0b11

# linux/seccomp.h, linux/filter.h, linux/audit.h
SECCOMP_SET_MODE_FILTER, SECCOMP_GET_ACTION_AVAIL = 1, 2
SECCOMP_FILTER_FLAG_TSYNC = 1
KILL_PROCESS, ERRNO, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16  # in struct seccomp_data
EPERM = 1
PROT_EXEC = 4  # linux/mman.h

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = tuple(ARCHITECTURES)

ALLOWED: Mapping[str, tuple[int, int]] = {
    # The socket to the parent and the file received through it
    "recvfrom": (45, 207),
    "sendto": (44, 206),
    "recvmsg": (47, 212),
    "read": (0, 63),
    "pread64": (17, 67),
    "lseek": (8, 62),
    "fstat": (5, 80),
    "close": (3, 57),
    # Memory
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    # Time, locks, signal handlers
    "futex": (202, 98),
    "clock_gettime": (228, 113),
    "gettimeofday": (96, 169),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "restart_syscall": (219, 128),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getrandom": (318, 278),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
"""System calls that are allowed, with their numbers on x86_64 and on aarch64.

The order of the numbers is that of MACHINES.
"""

NOT_EXECUTABLE: Mapping[str, tuple[int, int]] = {
    "mmap": (9, 222),
    "mprotect": (10, 226),
}
"""System calls that are allowed if their third argument does not contain PROT_EXEC."""

TO_ITSELF: Mapping[str, tuple[int, int]] = {"tgkill": (234, 131)}
"""System calls that are allowed if their first argument is the id of this process.

A codec may call abort(3), which calls tgkill(2).
"""

SECCOMP = (317, 277)
"""The number of the system call seccomp(2) on each of MACHINES."""


@dataclass(frozen=True, slots=True)
class Confinement:
    """The confinement of a process.

    Attributes:
        landlock: The version of Landlock that is in force; 0 without Landlock.
        seccomp: Whether the filter of system calls is in force.
    """

    landlock: int
    seccomp: bool

    @property
    def is_complete(self) -> bool:
        """Whether Landlock and the filter of system calls are both in force."""
        return self.seccomp and self.landlock > 0

    def __str__(self) -> str:
        """Return a description for users, such as "Landlock 4, seccomp"."""
        landlock = f"Landlock {self.landlock}" if self.landlock else "no Landlock"
        return f"{landlock}, {'seccomp' if self.seccomp else 'no seccomp'}"


UNCONFINED = (
    "This kernel does not support all restrictions of the decoding process. An attack "
    "on a codec could get the rights of the node's user. Use Linux 5.13 or later, with "
    "Landlock and seccomp, on x86-64 or aarch64."
)
"""The text that users read after the description of an incomplete Confinement."""


def confine() -> Confinement:
    """Confine this process permanently.

    The process should have only one thread. seccomp confines all threads, but Landlock
    confines only the thread that calls this function.

    Returns:
        The parts that are in force.
    """
    # A core dump would contain the radiograph of a patient.
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))
    if sys.platform != "linux":
        return Confinement(landlock=0, seccomp=False)
    libc = ctypes.CDLL(None)
    libc.syscall.restype = ctypes.c_long
    # The kernel requires this flag of a process that uses Landlock or seccomp without
    # the rights of root.
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return Confinement(landlock=_landlock(libc), seccomp=_seccomp(libc))


def offered() -> Confinement:
    """Return the confinement that this kernel supports, without applying it."""
    if sys.platform != "linux":
        return Confinement(landlock=0, seccomp=False)
    libc = ctypes.CDLL(None)
    libc.syscall.restype = ctypes.c_long
    machine = os.uname().machine
    if machine not in MACHINES:
        return Confinement(landlock=_landlock_version(libc), seccomp=False)
    action = ctypes.byref(ctypes.c_uint32(ERRNO))
    number = SECCOMP[MACHINES.index(machine)]
    known = libc.syscall(number, SECCOMP_GET_ACTION_AVAIL, 0, action) == 0
    return Confinement(landlock=_landlock_version(libc), seccomp=known)


def _landlock_version(libc: ctypes.CDLL) -> int:
    """Return the version of the kernel's Landlock; 0 if it has none."""
    none, flags = ctypes.c_size_t(0), LANDLOCK_CREATE_RULESET_VERSION
    version: int = libc.syscall(LANDLOCK_CREATE_RULESET, None, none, flags)
    return max(version, 0)


def _landlock(libc: ctypes.CDLL) -> int:
    """Deny the rights that both this module and the kernel's Landlock know.

    Returns:
        The version of Landlock; 0 if it is not in force.
    """
    call, create = libc.syscall, LANDLOCK_CREATE_RULESET
    version = _landlock_version(libc)
    if not version:
        return 0
    rights = max(count for first, count in FILE_RIGHTS.items() if first <= version)
    denied = [(1 << rights) - 1]
    if version >= NETWORK_VERSION:
        denied.append(BIND_AND_CONNECT)
    if version >= SCOPE_VERSION:
        denied.append(ABSTRACT_SOCKETS_AND_SIGNALS)
    ruleset = struct.pack(f"={len(denied)}Q", *denied)
    descriptor: int = call(create, ruleset, ctypes.c_size_t(len(ruleset)), 0)
    if descriptor < 0:
        return 0
    applied = call(LANDLOCK_RESTRICT_SELF, descriptor, 0) == 0
    os.close(descriptor)
    return version if applied else 0


def _seccomp(libc: ctypes.CDLL) -> bool:
    """Allow only the listed system calls; return whether the filter is in force."""
    machine = os.uname().machine
    if machine not in MACHINES:
        return False

    class Program(ctypes.Structure):  # struct sock_fprog
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    steps = list(seccomp_filter(machine, os.getpid()))
    program = Program(len(steps), b"".join(steps))
    number, flags = SECCOMP[MACHINES.index(machine)], SECCOMP_FILTER_FLAG_TSYNC
    arguments = SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(program)
    return bool(libc.syscall(number, *arguments) == 0)


def seccomp_filter(machine: str, process: int) -> Iterator[bytes]:
    """Yield the filter of system calls as a BPF program.

    Args:
        machine: One of MACHINES.
        process: The id of the process that will use the filter.

    Yields:
        Each instruction, a struct sock_filter.
    """
    column = MACHINES.index(machine)
    deny = _step(RETURN, ERRNO | EPERM)
    # Under another architecture, such as i386, the numbers mean other calls.
    yield _step(LOAD, ARCHITECTURE_AT)
    yield _step(EQUAL, ARCHITECTURES[machine], 1, 0)
    yield _step(RETURN, KILL_PROCESS)
    yield _step(LOAD, NUMBER_AT)
    for numbers in ALLOWED.values():
        yield _step(EQUAL, numbers[column], 0, 1)
        yield _step(RETURN, ALLOW)
    # LOAD reads 32 bits. On these machines, which are little endian, they are the lower
    # half of an argument.
    for numbers in NOT_EXECUTABLE.values():
        yield _step(EQUAL, numbers[column], 0, 4)
        yield _step(LOAD, ARGUMENTS_AT + 2 * 8)
        yield _step(ANY_BIT, PROT_EXEC, 1, 0)
        yield _step(RETURN, ALLOW)
        yield deny
    for numbers in TO_ITSELF.values():
        yield _step(EQUAL, numbers[column], 0, 4)
        yield _step(LOAD, ARGUMENTS_AT)
        yield _step(EQUAL, process, 0, 1)
        yield _step(RETURN, ALLOW)
        yield deny
    yield deny


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return one instruction of a BPF program.

    Args:
        code: The code of the instruction.
        value: The operand.
        if_true: The number of instructions to skip if a comparison is true.
        if_false: The number of instructions to skip if a comparison is false.
    """
    return struct.pack("=HBBI", code, if_true, if_false, value)
