"""Selects the client for a type of destination."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from config.destinations import Destination
from dicom_node.delivery.client import DestinationClient
from dicom_node.delivery.dicom import DicomClient
from dicom_node.delivery.hl7 import Hl7Client
from dicom_node.delivery.sender import SenderClient
from dicom_node.delivery.stow import StowClient

CLIENTS: Mapping[str, Callable[[Any, str], DestinationClient]] = MappingProxyType(
    {
        "dicom": DicomClient,
        "hl7": Hl7Client,
        "sender": SenderClient,
        "stow": StowClient,
    }
)
"""The class of the client for each `type` of a destination in the settings.

The arguments of the class are a destination of that type, and our AE title.
"""


def client_for(destination: Destination, calling_ae_title: str) -> DestinationClient:
    """Return the client of a destination; `calling_ae_title` is our AE title."""
    return CLIENTS[destination.type](destination, calling_ae_title)
