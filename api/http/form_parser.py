"""Read one field of a multipart form as a file.

When Starlette has read the headers of a part, the part is only in a private attribute,
`_current_part`. This module uses it. tests/project/test_private_names.py lists this
attribute, and fails with a version of Starlette that does not have it.
"""

from python_multipart.multipart import parse_options_header
from starlette.formparsers import MultiPartParser

FIELD = "file"
_AS_FILE = f'form-data; name="{FIELD}"; filename="{FIELD}"'.encode()


class FileFieldParser(MultiPartParser):
    """A multipart parser that reads the part with the name FIELD as a file."""

    def on_headers_finished(self) -> None:
        """Mark a part with the name FIELD as a file.

        The parser calls this after it has read the headers of a part.
        """
        part = self._current_part
        _, options = parse_options_header(part.content_disposition)
        if options.get(b"name") == FIELD.encode():
            part.content_disposition = _AS_FILE
        super().on_headers_finished()
