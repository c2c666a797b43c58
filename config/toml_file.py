"""Read a TOML file, with an error text for users if it cannot be read."""

import re
import tomllib
from pathlib import Path
from typing import Any

# In its error messages, tomllib prints a key as a tuple of its parts.
_PARTS = re.compile(r"\(((?:'[^']*'(?:, )?)+),?\)")


class TomlError(Exception):
    """A file cannot be read as TOML.

    The message is the end of a sentence that begins with the path of the file.
    """


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises:
        FileNotFoundError: The file does not exist.
        TomlError: The file cannot be read, or is not TOML.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TomlError(
            f"cannot be read: {error.strerror}. Name a file that this user can read."
        ) from None
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TomlError(
            f"cannot be read as TOML: line {line} is not UTF-8. Save the file as UTF-8."
        ) from None
    except RecursionError:
        raise TomlError("cannot be read as TOML: it is nested too deeply.") from None
    except ValueError as error:  # TOMLDecodeError, or a number with too many digits
        message = _PARTS.sub(
            lambda it: it[1].replace("', '", ".").strip("',"), str(error)
        )
        raise TomlError(
            f"cannot be read as TOML: {message}. Correct it there."
        ) from None
