"""The messages between a process and its child, the decoder.

A message has a head and buffers. The buffers contain the bytes of arrays and, in a
response, of bytes objects. These bytes are not copied into the head. The two directions
differ:

- A call goes to the child as a pickle. The parent opens each `Path` among the
  arguments, and the child gets the open file.
- A response is JSON. An attacker may control the child, so the parent never loads a
  pickle from it. The parent builds a value of the type that it expects, from JSON
  values and buffers of limited size.
"""

import dataclasses
import json
import math
import pickle
import socket
import struct
import time
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import Any, BinaryIO, Union, get_args, get_origin, get_type_hints

import numpy as np

from dicom_node.errors import (
    AnalysisError,
    CannotUnderstandError,
    DicomNodeError,
    EndsEarlyError,
    FileReadError,
    NotAnalyzedError,
    NotMeantError,
    TakesLongError,
)
from dicom_node.reasons import Failure, Refusal, Unanalyzed
from inference.plain_image import (
    BrokenImageError,
    NotAnImageError,
    PlainImageError,
    TooLargeImageError,
)

MAX_HEAD = 16 * 2**20
"""Maximum bytes of the head of a response.

A response that lists 2,000 attributes with long values needs a third of this.
"""
MAX_BUFFERS = 256
"""Maximum number of buffers of a response.

Each page of an examination summary needs a buffer.
"""
MAX_FILES = 253
"""Maximum number of open files in a call: SCM_MAX_FD of Linux, see unix(7)."""
ROWS_AND_COLUMNS = 2
"""The number of dimensions of an array if its type does not state the number."""
MAX_TEXT = 1000
"""Maximum characters of the message of an error or of a log record."""

_HEAD = struct.Struct("<IQ")  # the number of buffers, and the bytes of the head
_SIZE = struct.Struct("<Q")

_ERRORS: dict[str, type[DicomNodeError] | type[PlainImageError]] = {
    each.__name__: each
    for each in (
        AnalysisError,
        NotAnalyzedError,
        NotMeantError,
        CannotUnderstandError,
        EndsEarlyError,
        FileReadError,
        TakesLongError,
        PlainImageError,
        NotAnImageError,
        BrokenImageError,
        TooLargeImageError,
    )
}
_REASONS = {each.__name__: each for each in (Refusal, Unanalyzed, Failure)}


class MalformedResponseError(Exception):
    """A response is too large or malformed, or is not expected.

    The program of the child never sends such a response. An attacker may control the
    child.
    """


class Channel:
    """One end of the socket between a process and its decoder."""

    def __init__(self, end: socket.socket) -> None:
        """Take one end of a pair of Unix stream sockets."""
        self._socket = end

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    @property
    def is_closed(self) -> bool:
        """Whether the other end is closed or has sent data. Use only between calls."""
        self._socket.settimeout(None)
        try:
            self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def send(
        self,
        head: bytes,
        buffers: Sequence[memoryview] = (),
        *,
        files: Sequence[int] = (),
        deadline: float = math.inf,
    ) -> None:
        """Send a message.

        Args:
            head: The first part.
            buffers: The other parts, as views of bytes.
            files: Descriptors of open files to send with the message, at most
                MAX_FILES.
            deadline: Time limit, in seconds of time.monotonic().

        Raises:
            TimeoutError: The other end did not accept the whole message by the
                deadline.
            OSError: The other end is closed.
        """
        sizes = [_SIZE.pack(len(each)) for each in buffers]
        announced = b"".join((_HEAD.pack(len(buffers), len(head)), *sizes))
        if files:  # they are sent with the first byte
            self._wait_until(deadline)
            socket.send_fds(self._socket, [announced[:1]], files)
            announced = announced[1:]
        parts: list[bytes | memoryview] = [announced, head, *buffers]
        for part in parts:
            self._wait_until(deadline)
            self._socket.sendall(part)

    def receive(
        self, *, max_head: int, max_size: int, deadline: float = math.inf
    ) -> tuple[bytearray, list[bytearray]]:
        """Receive a message from the other end, which is not trusted.

        Args:
            max_head: Maximum size of the head, in bytes.
            max_size: Maximum size of all buffers together, in bytes.
            deadline: Time limit, in seconds of time.monotonic().

        Returns:
            The head and the buffers.

        Raises:
            TimeoutError: The message was not complete by the deadline.
            MalformedResponseError: The message is too large, or has more than
                MAX_BUFFERS buffers.
            EOFError: The other end was closed before the message was complete.
            OSError: The connection failed in another way.
        """
        count, length = _HEAD.unpack(self._exactly(_HEAD.size, deadline))
        if count > MAX_BUFFERS or length > max_head:
            raise MalformedResponseError
        sizes = self._exactly(count * _SIZE.size, deadline)
        lengths = [size for (size,) in _SIZE.iter_unpack(sizes)]
        if sum(lengths) > max_size:
            raise MalformedResponseError
        head = self._exactly(length, deadline)
        return head, [self._exactly(each, deadline) for each in lengths]

    def receive_call(self) -> tuple[bytearray, list[bytearray], list[int]]:
        """Receive a call and its open files from the parent, which is trusted.

        Returns:
            The head, the buffers, and the descriptors of the files.

        Raises:
            EOFError: The parent has closed its end.
        """
        first, files, _, _ = socket.recv_fds(self._socket, 1, MAX_FILES)
        if not first:
            raise EOFError
        rest = self._exactly(_HEAD.size - 1, math.inf)
        count, length = _HEAD.unpack(first + rest)
        sizes = self._exactly(count * _SIZE.size, math.inf)
        head = self._exactly(length, math.inf)
        lengths = (size for (size,) in _SIZE.iter_unpack(sizes))
        return head, [self._exactly(each, math.inf) for each in lengths], files

    def _exactly(self, size: int, deadline: float) -> bytearray:
        content = bytearray(size)
        with memoryview(content) as view:
            received = 0
            while received < size:
                self._wait_until(deadline)
                count = self._socket.recv_into(view[received:])
                if not count:
                    raise EOFError
                received += count
        return content

    def _wait_until(self, deadline: float) -> None:
        """Limit the next operation of the socket to the time until the deadline."""
        if math.isinf(deadline):
            return
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A file that the parent opened, which the child gets instead of a `Path`.

    Attributes:
        descriptor: The descriptor of the open file.
    """

    descriptor: int

    def open(self, mode: str = "rb") -> BinaryIO:
        """Open the file at its start. Closing the result leaves the descriptor open.

        If the disk fails, reading the result raises FileReadError.

        Raises:
            PermissionError: The mode is not "rb".
        """
        if mode != "rb":
            raise PermissionError
        file = _MarkedFile(self.descriptor, "rb", closefd=False)
        file.seek(0)
        file.name = ""  # pydicom adds the name to a text; the default is a number
        return BufferedReader(file)


class _MarkedFile(FileIO):
    """A file that raises FileReadError instead of OSError if it cannot be read.

    pydicom may also raise OSError if the content of a file is damaged.
    """

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with _as_read_error():
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with _as_read_error():
            return super().readall()


@contextmanager
def _as_read_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileReadError(f"The file cannot be read: {error.strerror}") from None


class _CallPickler(pickle.Pickler):
    """A pickler for calls, which writes a number instead of each path."""

    def __init__(self, file: BytesIO) -> None:
        self.buffers: list[pickle.PickleBuffer] = []
        super().__init__(file, 5, buffer_callback=self.buffers.append)
        self.paths: list[Path] = []

    def persistent_id(self, each: object) -> int | None:
        if not isinstance(each, Path):
            return None
        self.paths.append(each)
        return len(self.paths) - 1


class _CallUnpickler(pickle.Unpickler):
    """An unpickler for calls, which returns an open file instead of each path."""

    def __init__(
        self, head: bytes | bytearray, buffers: Sequence[bytearray], files: list[int]
    ) -> None:
        super().__init__(BytesIO(head), buffers=buffers)
        self._files = files

    def persistent_load(self, number: int) -> ReceivedFile:
        return ReceivedFile(self._files[number])


def pack_call(call: object) -> tuple[bytes, list[memoryview], list[Path]]:
    """Encode a call.

    Args:
        call: The tuple (function, args). `args` is the tuple of the arguments.

    Returns:
        The head, the buffers, and the paths of the files to open for the child.

    Raises:
        ValueError: There are more than MAX_FILES paths.
    """
    file = BytesIO()
    pickler = _CallPickler(file)
    pickler.dump(call)
    if len(pickler.paths) > MAX_FILES:
        raise ValueError(f"A call can have at most {MAX_FILES} files")
    return file.getvalue(), [each.raw() for each in pickler.buffers], pickler.paths


def unpack_call(
    head: bytes | bytearray, buffers: Sequence[bytearray], files: list[int]
) -> tuple[Callable[..., object], tuple[object, ...]]:
    """Return the function and the arguments that `pack_call` encoded.

    Use this only in the child, which trusts the parent.
    """
    function, args = _CallUnpickler(head, buffers, files).load()
    return function, args


def pack_response(kind: str, content: object) -> tuple[bytes, list[memoryview]]:
    """Encode a response of the child.

    Args:
        kind: LOG, RETURNED or RAISED (decoder/client.py).
        content: The content of the response: JSON values, arrays, bytes objects, or
            dataclasses, lists and tuples of these.

    Returns:
        The head, which is JSON, and the buffers.
    """
    buffers: list[memoryview] = []
    return json.dumps([kind, _plain(content, buffers)]).encode(), buffers


def _plain(value: object, buffers: list[memoryview]) -> object:
    """Convert a value to JSON values, and add the bytes of its arrays to the buffers.

    An array becomes the number of its buffer and its shape. A bytes object becomes the
    number of its buffer.
    """
    match value:
        case np.ndarray():
            buffers.append(np.ascontiguousarray(value).data.cast("B"))
            return [len(buffers) - 1, *value.shape]
        case np.generic():
            return value.item()
        case bytes():
            buffers.append(memoryview(value))
            return len(buffers) - 1
        case list() | tuple():
            return [_plain(each, buffers) for each in value]
        case _ if dataclasses.is_dataclass(value):
            names = [each.name for each in dataclasses.fields(value)]
            return {name: _plain(getattr(value, name), buffers) for name in names}
    return value


def pack_error(error: DicomNodeError | PlainImageError) -> list[object]:
    """Return [class name, message, reason] of an error, as JSON values.

    The class is the first one in the method resolution order that `unpack_error` knows.
    The message is cut to MAX_TEXT characters. The reason is [name of its enum, value],
    or None if the error has no reason.
    """
    known = next(each for each in type(error).__mro__ if each.__name__ in _ERRORS)
    reason = getattr(error, "reason", None)
    named = reason and [type(reason).__name__, reason.value]
    return [known.__name__, str(error)[:MAX_TEXT], named]


def read_response(head: bytes | bytearray) -> tuple[str, Any]:
    """Return the kind of a response, and its content, which is not checked.

    Raises:
        MalformedResponseError: The head is not the JSON of a response.
    """
    try:
        kind, content = json.loads(head)
    except (ValueError, TypeError, RecursionError):
        raise MalformedResponseError from None
    if not isinstance(kind, str):
        raise MalformedResponseError
    return kind, content


def unpack_error(content: Any) -> Exception:  # noqa: ANN401 - any value from the child
    """Return the error that `pack_error` converted to JSON values in the child.

    Raises:
        MalformedResponseError: `content` is not a result of `pack_error`.
    """
    try:
        name, message, named = content
        made, text = _ERRORS[name], printable(message)
        if issubclass(made, PlainImageError):
            return made(text)
        return made(text, named and _REASONS[named[0]](named[1]))
    except (ValueError, TypeError, KeyError, IndexError):
        raise MalformedResponseError from None


def printable(text: Any) -> str:  # noqa: ANN401 - any value from the child
    """Return at most MAX_TEXT characters of a text, with spaces for unprintable ones.

    Raises:
        TypeError: The value is not a text.
    """
    if not isinstance(text, str):
        raise TypeError
    return "".join(each if each.isprintable() else " " for each in text[:MAX_TEXT])


def result_type(function: Callable[..., Any]) -> Any:  # noqa: ANN401 - a type
    """Return the annotated return type of a function, or Any if it has none."""
    while isinstance(function, partial):
        function = function.func
    return _returned(function)


@cache
def _returned(function: Callable[..., Any]) -> Any:  # noqa: ANN401 - a type
    return get_type_hints(function).get("return", Any)


def unpack_result(
    kind: Any,  # noqa: ANN401 - a type
    content: Any,  # noqa: ANN401 - any value from the child
    buffers: Sequence[bytearray],
) -> Any:  # noqa: ANN401 - of that type
    """Build the result of a call from the values that the child sent.

    Args:
        kind: The type of the result: bool, int, float, str, bytes, an array, a
            dataclass, a tuple or list of these, or a union of one of these and None. If
            `kind` is Any, the result may be a str, int, float, bool or None. An array
            has two dimensions if its type does not state another number.
        content: The JSON value that the child sent.
        buffers: The buffers that the child sent.

    Raises:
        MalformedResponseError: The content is not of the type `kind`.
    """
    try:
        return _built(kind, content, buffers)
    except (ValueError, TypeError, IndexError, RecursionError):
        raise MalformedResponseError from None


@cache
def _fields(made: type) -> dict[str, Any]:
    hints = get_type_hints(made)
    return {each.name: hints[each.name] for each in dataclasses.fields(made)}


def _built(kind: Any, value: Any, buffers: Sequence[bytearray]) -> Any:  # noqa: ANN401, PLR0911
    """Return `value`, which the child sent, as an object of the type `kind`.

    Raises:
        ValueError, TypeError, IndexError: The value is not of this type.
    """
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return _expected(value, str, int, float, bool, type(None))
    if kind is float:
        return _number(value)
    if kind in {str, int, bool}:
        return _expected(value, kind)
    if kind is bytes:
        return bytes(_buffer(value, buffers))
    if origin in {Union, types.UnionType}:
        if value is None and type(None) in args:
            return None
        [kind] = [each for each in args if each is not type(None)]
        return _built(kind, value, buffers)
    if origin is np.ndarray:
        dimensions = get_args(args[0])
        count = ROWS_AND_COLUMNS if ... in dimensions else len(dimensions)
        return _array(get_args(args[1])[0], count, value, buffers)
    if origin is list or args[1:] == (...,):
        each = [_built(args[0], one, buffers) for one in _expected(value, list)]
        return each if origin is list else tuple(each)
    if origin is tuple:
        pairs = zip(args, _expected(value, list), strict=True)
        return tuple(_built(one, part, buffers) for one, part in pairs)
    return _dataclass(kind, value, buffers)


def _dataclass(made: type, value: Any, buffers: Sequence[bytearray]) -> Any:  # noqa: ANN401
    fields = _fields(made)
    if _expected(value, dict).keys() != fields.keys():
        raise ValueError
    parts = {name: _built(fields[name], value[name], buffers) for name in fields}
    return made(**parts)


def _array(
    dtype: Any,  # noqa: ANN401
    dimensions: int,
    value: Any,  # noqa: ANN401
    buffers: Sequence[bytearray],
) -> Any:  # noqa: ANN401
    """Return the array with the buffer number and the shape in `value`.

    Raises:
        ValueError, TypeError, IndexError: `value` does not describe such an array.
    """
    number, *sides = _expected(value, list)
    shape = tuple(_expected(side, int) for side in sides)
    if len(shape) != dimensions or min(shape) < 1:
        raise ValueError
    return np.frombuffer(_buffer(number, buffers), dtype).reshape(shape)


def _buffer(number: Any, buffers: Sequence[bytearray]) -> bytearray:  # noqa: ANN401
    found: int = _expected(number, int)
    if found < 0:
        raise ValueError
    return buffers[found]


def _number(value: Any) -> float:  # noqa: ANN401
    found: float = _expected(value, int, float)
    return found


def _expected(value: Any, *kinds: type) -> Any:  # noqa: ANN401
    """Return `value` unchanged if its type is one of `kinds`.

    A subclass is another type. So a bool does not count as an int.

    Raises:
        TypeError: The value has another type.
    """
    if type(value) not in kinds:
        raise TypeError
    return value
