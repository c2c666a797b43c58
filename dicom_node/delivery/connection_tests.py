"""Tests the connections to the peers of a destination, at the request of a user."""

import time
from dataclasses import dataclass

from config.destinations import Destination
from dicom_node.delivery.clients import client_for
from dicom_node.outcome import Verdict


@dataclass(frozen=True, slots=True)
class ConnectionTestResult:
    """The result of a connection test.

    Attributes:
        at: Start of the test, in seconds since 1970.
        seconds: Duration of the test.
        comment: Each peer that failed the test, with the reason; empty if all peers
            passed the test. The text may quote a peer: never log it.
    """

    at: float
    seconds: float
    comment: str


def run_connection_test(
    destination: Destination, calling_ae_title: str
) -> ConnectionTestResult:
    """Test the connections to all peers of a destination; return the result.

    Args:
        destination: A destination of the settings.
        calling_ae_title: Our AE title.
    """
    started = time.time()
    client = client_for(destination, calling_ae_title)
    tests = client.connection_tests(destination.name)
    failed = {}
    for name, test in tests:
        outcome = test()
        if outcome.verdict is not Verdict.STORED:
            failed[name] = outcome
    comment = "; ".join(
        f"{name}: {outcome.comment}" for name, outcome in failed.items()
    )
    return ConnectionTestResult(started, max(time.time() - started, 0.0), comment)
