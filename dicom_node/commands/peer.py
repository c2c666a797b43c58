"""Reads a peer from the command line: the name of a destination, or AE@host:port."""

import re
import sys

from pydantic import ValidationError

from config.destinations import Destination, DicomDestination
from config.errors import explain_errors
from config.settings import Settings

ADDRESS = re.compile(r"(?P<ae_title>[^@]+)@(?P<host>.+):(?P<port>\d+)")


def parse_peer(text: str, settings: Settings) -> Destination:
    """Return the destination that a text names. If there is none, exit with a message.

    Args:
        text: The name of a destination in the settings, or AE@host:port.
        settings: The settings of the node.

    Returns:
        The destination of the settings, or a new one for AE@host:port.
    """
    for destination in settings.destinations:
        if destination.name == text:
            return destination
    names = ", ".join(each.name for each in settings.destinations) or "none"
    problem = f"{text!r} is neither AE@host:port nor a destination ({names})"
    match = ADDRESS.fullmatch(text)
    if match is None:
        sys.exit(problem)
    try:
        return DicomDestination.model_validate(
            {"name": "peer", "type": "dicom", **match.groupdict()}
        )
    except ValidationError as error:
        details = "; ".join(map(str, explain_errors(error, DicomDestination)))
        sys.exit(f"{problem}: {details}")
