"""What the tests of a file share: the decoding server."""

from tests.support.decoders import (  # noqa: F401 - fixtures
    common_decoders,
    decoder_requests,
)
