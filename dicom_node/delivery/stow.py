"""Destinations of the type `stow`: a DICOMweb service gets results by STOW-RS.

This module is a STOW-RS user agent (PS3.18 10.5). Each attempt sends the bytes of the
files unchanged. delivery/stow_response.py reads the response of the service.

This module uses the library `requests`, not `dicomweb-client`, which encodes each
dataset again, repeats requests by itself, and follows redirects. After a redirect,
a POST becomes a GET, and a login page looks like success. This module calls the adapter
of a `requests` session directly. The session itself would read the whole payload of a
redirect into memory, even if it does not follow the redirect.
"""

import base64
import io
import logging
import socket
import ssl
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import requests

from config.destinations import Secret, StowDestination
from dicom_node.delivery.client import SEND_TIMEOUT_S, ConnectionTest
from dicom_node.delivery.http_limits import (
    LARGEST_RESPONSE,
    TIMEOUTS,
    BoundedAdapter,
    ResponseTooLargeError,
    ResponseTooSlowError,
)
from dicom_node.delivery.stow_response import (
    JSON,
    StowResponse,
    object_outcomes,
    search_outcome,
)
from dicom_node.network.storage_commitment import OnRefused, RecordReport, Request
from dicom_node.network.tls import OUT_OF_DATE
from dicom_node.outcome import Outcome, Verdict
from dicom_node.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

# urllib3 logs headers of responses. Texts of a peer must not reach the log.
logging.getLogger("urllib3").setLevel(logging.CRITICAL)

TIMEOUT_S = 30.0
# Maximum size of the objects in a request, in bytes. An object that is larger is sent
# in a request of its own. Windows web servers accept 30 MB by default.
MOST_BYTES = 25_000_000
MAX_PAYLOAD_BYTES = 1_000_000


class NoResponseError(Exception):
    """A request got no usable response, or could not be sent.

    The message gives the reason.
    """


@dataclass(frozen=True, slots=True)
class StowClient:
    """A client that sends results to a DICOMweb service; see DestinationClient.

    Attributes:
        service: The address and credentials of the service.
        calling_ae_title: Our AE title. STOW-RS does not use it.
    """

    service: StowDestination
    calling_ae_title: str = ""

    def deliver(
        self, files: Mapping[str, Path], _sender_ae_title: str
    ) -> dict[str, Outcome]:
        """Store the files by STOW-RS; return the outcomes by SOP Instance UID."""
        return store(files, self.service, timeout_s=SEND_TIMEOUT_S)

    def connection_tests(self, name: str) -> list[tuple[str, ConnectionTest]]:
        """Return a list with one pair: `name` and a function that tests the service.

        The function calls `check_connection`.
        """
        return [(name, partial(check_connection, self.service))]

    def request_commitment(
        self,
        _request: Request,
        _sender_ae_title: str,
        *,
        record_report: RecordReport,  # noqa: ARG002 - no report can come
        on_refused: OnRefused,  # noqa: ARG002
    ) -> Outcome:
        """Return an outcome with the verdict REFUSED.

        The node requests no Storage Commitment by DICOMweb.
        """
        reason = "The node requests no storage commitment by DICOMweb"
        return Outcome(Verdict.REFUSED, None, reason, was_sent=False)

    def peer(self, _sender_ae_title: str) -> tuple[str, str]:
        """Return the URL and the host of the service."""
        return self.service.url, urlsplit(self.service.url).hostname or ""


def store(
    files: Mapping[str, Path],
    service: StowDestination,
    *,
    timeout_s: float = TIMEOUT_S,
) -> dict[str, Outcome]:
    """Store objects in a service, in requests of at most MOST_BYTES if possible.

    If the service refuses a whole request with several objects, each object is sent
    again in a request of its own. If a request gets no response, or if a file cannot be
    read, sending ends. All objects without an outcome then get the verdict RETRY.

    Args:
        files: Part 10 files by SOP Instance UID.
        service: The address and credentials of the service.
        timeout_s: Timeout in seconds for the connection, and for each pause in sending
            or receiving. The total time of sending is not limited. The whole response
            may take TIMEOUTS times the timeout.

    Returns:
        The outcome of each object, by SOP Instance UID.
    """
    outcomes: dict[str, Outcome] = {}
    try:
        for batch in _batches(files):
            outcomes |= _store(service, batch, timeout_s)
    except NoResponseError as error:
        retried = Outcome(Verdict.RETRY, None, str(error))
    except OSError as error:
        reason = f"a result cannot be read: {error.strerror}"
        retried = Outcome(Verdict.RETRY, None, reason, was_sent=False)
    else:
        return outcomes
    return dict.fromkeys(files, retried) | outcomes


def check_connection(
    service: StowDestination, *, timeout_s: float = TIMEOUT_S
) -> Outcome:
    """Test the connection to a service, with our credentials.

    The test is a search (PS3.18 10.6) for a study that does not exist, so the response
    is short and names no patient. The test fails if the service does not support
    searches, even if the service can store objects.

    Returns:
        An outcome with the verdict STORED if the service responded with success.
        Otherwise the comment of the outcome gives the reason.
    """
    query = {"StudyInstanceUID": IMPLEMENTATION_CLASS_UID, "limit": "1"}
    request = requests.Request("GET", f"{service.url}/studies", params=query)
    try:
        response = _send(service, request, timeout_s)
    except NoResponseError as error:
        return Outcome(Verdict.RETRY, None, str(error))
    return search_outcome(response, _credentials_advice(service))


def _batches(files: Mapping[str, Path]) -> Iterator[dict[str, bytes]]:
    """Yield one batch for each request: contents of files by SOP Instance UID."""
    batch: dict[str, bytes] = {}
    for uid, path in files.items():
        content = path.read_bytes()
        if batch and sum(map(len, batch.values())) + len(content) > MOST_BYTES:
            yield batch
            batch = {}
        batch[uid] = content
    if batch:
        yield batch


def _store(
    service: StowDestination, batch: Mapping[str, bytes], timeout_s: float
) -> dict[str, Outcome]:
    response = _post(service, batch, timeout_s)
    outcomes = object_outcomes(batch, response, _credentials_advice(service))
    all_refused = all(
        each.verdict is Verdict.REFUSED and each.status is None
        for each in outcomes.values()
    )
    # One object, or the total size, may be the reason for the refusal of all.
    if all_refused and len(batch) > 1:
        for uid, content in batch.items():
            outcomes |= _store(service, {uid: content}, timeout_s)
    return outcomes


def _post(
    service: StowDestination, batch: Mapping[str, bytes], timeout_s: float
) -> StowResponse:
    boundary = uuid.uuid4().hex
    start = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    parts = [start + content + b"\r\n" for content in batch.values()]
    body = b"".join([*parts, f"--{boundary}--\r\n".encode()])
    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    request = requests.Request(
        "POST",
        f"{service.url}/studies",
        # A file object is sent in pieces, each with its own timeout.
        data=io.BytesIO(body),
        headers={"Content-Type": kind},
    )
    return _send(service, request, timeout_s)


def _send(
    service: StowDestination, request: requests.Request, timeout_s: float
) -> StowResponse:
    host = urlsplit(service.url).netloc
    try:
        with (
            _session(service) as session,
            session.get_adapter(service.url).send(
                session.prepare_request(request),
                timeout=timeout_s,
                stream=True,
                verify=session.verify,
            ) as response,
        ):
            kind = response.headers.get("Content-Type", "")
            return StowResponse(
                code=response.status_code,
                reason=response.reason or "",
                media_type=kind.partition(";")[0].strip().lower(),
                content=_content(response),
            )
    except requests.RequestException as error:
        raise NoResponseError(f"{host} {_failure_reason(error, timeout_s)}") from None
    except OSError:
        raise NoResponseError(
            f"{host} gets no request: ca_bundle is not a file"
        ) from None


def _session(service: StowDestination) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # use no proxies and passwords of the environment
    session.verify = True if service.ca_bundle is None else str(service.ca_bundle)
    for scheme in ("http://", "https://"):
        session.mount(scheme, BoundedAdapter())
    session.headers.update(
        {
            "Accept": JSON,
            "Accept-Encoding": "identity",
            "User-Agent": IMPLEMENTATION_VERSION_NAME,
        }
    )
    if service.token_env:
        token = _value(service.token_env)
        if not (token.isascii() and token.isprintable()):
            raise NoResponseError(f"{service.token_env.variable} is not a valid token")
        session.headers["Authorization"] = f"Bearer {token}"
    if service.password_env:  # UTF-8 (RFC 7617); requests would use Latin-1
        pair = f"{service.username}:{_value(service.password_env)}".encode()
        basic = base64.b64encode(pair).decode()
        session.headers["Authorization"] = f"Basic {basic}"
    return session


def _value(secret: Secret) -> str:
    if not secret.value:
        raise NoResponseError(f"{secret.variable} is not set in the node's environment")
    return secret.value


def _content(response: requests.Response) -> bytes:
    content = b""
    for piece in response.iter_content(65536):
        content += piece
        if len(content) > MAX_PAYLOAD_BYTES:
            host = urlsplit(response.url).netloc
            raise NoResponseError(
                f"{host} responds with more than {MAX_PAYLOAD_BYTES} B"
            )
    return content


def _failure_reason(error: Exception, timeout_s: float) -> str:
    """Return why there is no response, as a text that follows the name of the host.

    The text of the error itself is not used, because it may quote the service.
    """
    causes = list(_causes(error))
    if description := next(filter(None, map(_describe_cause, causes)), ""):
        return description
    if any(isinstance(each, ResponseTooSlowError) for each in causes):
        return f"does not finish its response within {TIMEOUTS * timeout_s:g} s"
    if isinstance(error, requests.ConnectTimeout):
        return f"cannot be reached within {timeout_s:g} s"
    if any(isinstance(each, requests.Timeout | TimeoutError) for each in causes):
        return f"hangs: no data was transferred for {timeout_s:g} s"
    return f"broke the connection ({type(error).__name__})"


def _describe_cause(cause: BaseException) -> str:
    match cause:
        case ssl.SSLCertVerificationError():
            advice = "If the authority is your own, set ca_bundle to its certificate"
            if cause.verify_code in OUT_OF_DATE:
                advice = (
                    "Renew the certificate of the service or of its authority, or "
                    "correct the clock of this machine"
                )
            return f"is not trusted: {cause.verify_message}. {advice}"
        case ResponseTooLargeError():
            return f"responds with more than {LARGEST_RESPONSE} B"
        case ssl.SSLError():
            return f"does not agree on TLS: {cause.reason}"
        case socket.gaierror():
            return "cannot be found"
        case ConnectionRefusedError():
            return "refuses the connection"
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _credentials_advice(service: StowDestination) -> str:
    """Return the advice to show to users if the service refuses our credentials."""
    secret = service.token_env or service.password_env
    return f"check {secret.variable}" if secret else "it may require token_env"
