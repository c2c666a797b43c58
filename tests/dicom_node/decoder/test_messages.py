"""Messages with several files, and with arrays of colored pixels."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicom_node.decoder.messages import (
    MAX_FILES,
    Channel,
    MalformedResponseError,
    ReceivedFile,
    pack_call,
    pack_response,
    read_response,
    unpack_call,
    unpack_result,
)
from dicom_node.pixels.decode import DecodedInstance
from inference.drawing.thumbnail import Thumbnail
from inference.radiograph import Radiograph


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    ends = [Channel(end) for end in socket.socketpair()]
    yield ends[0], ends[1]
    for each in ends:
        each.close()


def test_call_can_have_the_largest_number_of_files(
    channels: tuple[Channel, Channel], tmp_path: Path
) -> None:
    paths = [tmp_path / str(number) for number in range(MAX_FILES)]
    for path in paths:
        path.write_bytes(path.name.encode())
    head, buffers, named = pack_call((max, (paths,)))

    with ExitStack() as opened:
        files = [opened.enter_context(each.open("rb")).fileno() for each in named]
        channels[0].send(head, buffers, files=files)
    head, received, descriptors = channels[1].receive_call()

    _, (arguments,) = unpack_call(head, received, descriptors)
    assert isinstance(arguments, list)
    assert len(arguments) == MAX_FILES
    for path, file in zip(paths, arguments, strict=True):
        assert isinstance(file, ReceivedFile)
        with file.open() as content:
            assert content.read() == path.name.encode()
    for each in descriptors:
        os.close(each)


def test_call_with_more_files_is_refused(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(MAX_FILES + 1)]

    with pytest.raises(ValueError, match="253 files"):
        pack_call((max, (paths,)))


def returned(kind: Any, value: object) -> Any:  # noqa: ANN401 - any type
    """Pack a value as the decoder does; return it as its parent process unpacks it."""
    head, buffers = pack_response("returned", value)
    _, content = read_response(head)
    return unpack_result(kind, content, [bytearray(each) for each in buffers])


def test_colored_pixels_keep_their_three_dimensions() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)

    result = returned(Thumbnail, Thumbnail(pixels, (20, 40)))

    np.testing.assert_array_equal(result.pixels, pixels)
    assert result.source_shape == (20, 40)


def test_array_with_other_dimensions_is_refused() -> None:
    gray, colored = np.ones((2, 4), np.uint8), np.ones((2, 4, 3), np.uint8)
    decoded = DecodedInstance(Radiograph(colored, None, (2, 4)), "", "")

    with pytest.raises(MalformedResponseError):
        returned(Thumbnail, Thumbnail(gray, (2, 4)))  # type: ignore[arg-type]
    with pytest.raises(MalformedResponseError):
        returned(DecodedInstance, decoded)
