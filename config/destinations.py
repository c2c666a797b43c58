"""The settings of destinations: one class for each type of destination.

The key `type` of a table selects the class. The common base class has the keys that all
types share. The modules of `dicom_node/delivery` implement the protocols.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    InstanceOf,
    Tag,
    ValidationInfo,
    model_validator,
)

from config.base import AeTitle, CallerTitle, Host, Name, Network, Table, is_loopback
from config.tls import File, check_authorities, check_certificate

LARGEST_PORT = 65535
URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[\da-fA-F:.]+\]|[A-Za-z\d._-]+)"
    r"(:(?P<port>\d{1,5}))?(/[!-~]*)?"
)
ResultKind = Literal[
    "secondary_capture",
    "presentation_state",
    "structured_report",
    "heatmap",
    "exam_summary",
    "exam_report",
]
"""The kinds of result objects.

Objects of the kinds that begin with "exam_" are about an examination. Objects of the
other kinds are about an image.
"""


ConnectionTest = Literal["echo", "search", "connect"]
"""The methods to test a connection.

"echo" is a C-ECHO to each AE. "search" is a DICOMweb search for a study that does not
exist. "connect" opens a TCP or TLS connection and closes it.
"""

CharacterSet = Literal[
    "utf-8",
    "ascii",
    "iso-8859-1",
    "iso-8859-2",
    "iso-8859-3",
    "iso-8859-4",
    "iso-8859-5",
    "iso-8859-6",
    "iso-8859-7",
    "iso-8859-8",
    "iso-8859-9",
    "iso-8859-15",
    "iso-2022-jp",
]
"""The character sets of HL7 messages."""

TransferSyntax = Literal["uncompressed", "rle", "jpeg_ls", "jpeg_2000", "jpeg_baseline"]


class CommitmentCaller(Table):
    """An AE that reports storage commitments in place of another AE.

    Attributes:
        ae_title: The calling AE title, as the log and the pages show it: characters
            that cannot be printed are replaced.
        network: The addresses that the AE may call from. None means the addresses of
            the host that got the request for commitment.
    """

    ae_title: CallerTitle
    network: Network | None = None


def as_table(value: Any) -> Any:  # noqa: ANN401 - any TOML value
    """Return the table of a caller if the value is a bare AE title, else the value."""
    return {"ae_title": value} if isinstance(value, str) else value


class TcpPeer(Table):
    """The address of a peer that the node connects to.

    Attributes:
        host: The host name or IP address.
        port: The TCP port.
        tls: Whether to use TLS.
        tls_authorities: PEM file of the authorities that may sign the certificate of
            the peer. None means the authorities that the system trusts.
        tls_check_host_name: Whether the certificate of the peer must name `host`.
        tls_certificate: PEM file of the node's certificate, for a peer that requires
            one. None means that the node presents no certificate.
        tls_private_key: PEM file of the private key; None if the file `tls_certificate`
            contains the private key.
    """

    host: Host
    port: Annotated[int, Field(ge=1, le=LARGEST_PORT)]
    tls: bool = False
    tls_authorities: File = None
    tls_check_host_name: bool = True
    tls_certificate: File = None
    tls_private_key: File = None

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        has_files = self.tls_authorities or self.tls_certificate or self.tls_private_key
        if not self.tls and (has_files or not self.tls_check_host_name):
            raise ValueError("keys of TLS are set, but tls = false; set tls = true")
        if self.tls_certificate is not None:
            check_certificate(
                "tls_certificate", self.tls_certificate, self.tls_private_key
            )
        elif self.tls_private_key:
            raise ValueError("tls_private_key is set, but no tls_certificate")
        check_authorities("tls_authorities", self.tls_authorities)
        return self


class Address(TcpPeer):
    """The DICOM address of an AE.

    Attributes:
        ae_title: The called AE title.
        commitment_callers: Other AEs that may report storage commitments of this AE.
    """

    ae_title: AeTitle
    commitment_callers: tuple[
        Annotated[CommitmentCaller, BeforeValidator(as_table)], ...
    ] = Field(
        default=(),
        description='a list of AE titles or of { ae_title = "PACS2", network = '
        '"10.1.0.0/16" }',
    )

    @property
    def location(self) -> str:
        """The AE title, host and port as users write them: AE@host:port."""
        return f"{self.ae_title}@{self.host}:{self.port}"


class _Destination(Table):
    """The settings common to all destinations.

    Each type of destination has its own class of settings, and a client that sends the
    results (see `dicom_node/delivery/clients.py`).

    Attributes:
        name: The name for users, the journal and the commands.
        results: The kinds of result that the destination receives.
        retry_days: Days for which a delivery is retried before it fails permanently.
        modality: The modality of Secondary Captures: "OT", or "source" for the modality
            of the radiograph.
        send_negative: Whether to send results without a fracture. If False, they are
            sent only to correct earlier objects, and the destination may also get
            notices, as `result_types` explains.
        transfer_syntax: The transfer syntax in which images are sent if the peer
            accepts it.
        commitment: Whether a result counts as delivered only after the archive has
            committed to storing it (PS3.4 annex J).
    """

    name: Name
    results: tuple[ResultKind, ...] = Field(
        default=("secondary_capture",), min_length=1
    )
    retry_days: float = Field(default=3, gt=0)
    modality: Literal["OT", "source"] = "OT"
    send_negative: bool = True
    transfer_syntax: TransferSyntax = "uncompressed"
    commitment: bool = False

    connection_test: ClassVar[ConnectionTest]
    """The method to test the connection."""

    returns_to_sender: ClassVar[bool] = False
    """Whether the results go to the AE that sent the instance."""

    gets_messages: ClassVar[bool] = False
    """Whether results are HL7 messages, not DICOM objects.

    An archive stores an object once, even if it is sent several times. But a RIS may
    apply messages in the wrong order, or refuse a message that it has already accepted.
    Therefore each worker sends the messages for a destination one after another. If an
    image is received again, its messages are not sent again to a destination that has
    all of them.
    """

    @property
    def result_types(self) -> tuple[str, ...]:
        """The types of the result objects that the destination receives.

        If `send_negative` is False, a destination that gets objects about images also
        gets notices. Without a notice, an image that could not be analyzed would look
        negative. A destination that gets only objects about examinations needs no
        notices, because these objects name the images without a result.
        """
        is_about_images = any(not each.startswith("exam_") for each in self.results)
        if self.send_negative or not is_about_images:
            return self.results
        return *self.results, "notice"

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The AEs that may get results; empty if results do not go to AEs."""
        return ()

    @property
    def peer_count(self) -> int:
        """The number of peers that results go to, at least 1."""
        return max(len(self.addresses), 1)

    @property
    def address_text(self) -> str:
        """The address of the destination as users read it, without secrets."""
        return ", ".join(each.location for each in self.addresses)

    def address_for(self, sender_ae_title: str) -> Address | None:  # noqa: ARG002
        """Return the address of the AE that gets the results of an instance.

        Args:
            sender_ae_title: AE title of the AE that sent the instance.

        Returns:
            The address. None if results do not go to AEs, or if they go to senders and
            this sender is not in the settings.
        """
        return None

    def peer_for(self, sender_ae_title: str) -> str:
        """Return the name of the peer that gets the results of an instance.

        A peer has the name of the destination. If results go to the sender, a colon and
        the AE title of the sender follow. Deliveries to different peers do not wait for
        each other.
        """
        return f"{self.name}:{sender_ae_title}" if self.returns_to_sender else self.name


class DicomDestination(_Destination, Address):
    """A fixed AE that receives results by C-STORE."""

    type: Literal["dicom"]

    connection_test: ClassVar[ConnectionTest] = "echo"

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The only AE, which is this destination itself."""
        return (self,)

    def address_for(self, sender_ae_title: str) -> Address:  # noqa: ARG002
        """Return this destination, which is the address of its only AE."""
        return self


def _check_peers(peers: tuple[Address, ...]) -> tuple[Address, ...]:
    if not peers:
        raise ValueError("expected at least one peer")
    titles = [each.ae_title for each in peers]
    if duplicates := {title for title in titles if titles.count(title) > 1}:
        raise ValueError(f"two peers have the AE title {', '.join(sorted(duplicates))}")
    return peers


class SenderDestination(_Destination):
    """A destination that returns results by C-STORE to the AE that sent the instance.

    Attributes:
        peers: The addresses of the senders. A sender is identified by its AE title.
    """

    type: Literal["sender"]
    peers: Annotated[tuple[Address, ...], AfterValidator(_check_peers)]

    connection_test: ClassVar[ConnectionTest] = "echo"
    returns_to_sender: ClassVar[bool] = True

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The AEs that are configured as peers."""
        return self.peers

    def address_for(self, sender_ae_title: str) -> Address | None:
        """Return the address of the sender; None if it is not among the peers."""
        known = {each.ae_title: each for each in self.peers}
        return known.get(sender_ae_title.strip(" "))  # spaces are padding (PS3.5 6.2)


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret from the environment; the settings only name its variable.

    Attributes:
        variable: The name of the variable.
        value: The value of the variable; empty if it is not set. A missing variable is
            not an error, because most commands and roles need no secret.
    """

    variable: str
    value: str = field(default="", repr=False)


def _secret(value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401 - any TOML value
    """Return the secret that an environment variable contains.

    Args:
        value: The name of the variable. A Secret is returned unchanged.
        info: Its context is the environment, which `load` passes to pydantic.

    Raises:
        ValueError: The value is not the name of a variable in capitals.
    """
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str) or not re.fullmatch("[A-Z_][A-Z0-9_]*", value):
        raise ValueError(
            "expected the name of an environment variable in capitals; the secret "
            "itself does not belong in this file"
        )
    # A value that was read from a file often ends with a newline.
    return Secret(value, (info.context or {}).get(value, "").rstrip("\r\n"))


FromEnvironment = Annotated[InstanceOf[Secret], BeforeValidator(_secret)]


def _service(url: str) -> str:
    """Check the base URL of a service, and return it without a slash at the end.

    Raises:
        ValueError: The URL cannot be used. The message does not quote it.
    """
    match = URL.fullmatch(url)
    if (
        match is None
        or set("?#@") & set(url)
        or not 1 <= int(match["port"] or 1) <= LARGEST_PORT
    ):
        raise ValueError(
            "expected https://HOST/PATH or https://HOST:PORT/PATH, without user, "
            "password, query or fragment"
        )
    if match["scheme"] == "http" and not is_loopback(match["host"].strip("[]")):
        raise ValueError(
            "http:// sends results and password in plain text and is allowed only for "
            "loopback (127.0.0.1, localhost); use https://"
        )
    return url.rstrip("/")


class StowDestination(_Destination):
    """A DICOMweb service that receives results by STOW-RS (PS3.18 10.5).

    Attributes:
        url: The base URL of the service. Results are posted to /studies below this URL.
        token_env: The environment variable that contains the bearer token; None if no
            token is sent.
        username: The user name for basic authentication; empty if none is sent.
        password_env: The environment variable that contains the password; None without
            a user name.
        ca_bundle: PEM file of the authorities to trust; None means those that browsers
            trust.
    """

    type: Literal["stow"]
    commitment: Literal[False] = False  # delivery/stow.py cannot request commitment
    url: Annotated[str, AfterValidator(_service)]
    token_env: FromEnvironment | None = None
    username: Annotated[
        str, Field(pattern="^[^:]*$", description="a user name without a colon")
    ] = ""  # RFC 7617
    password_env: FromEnvironment | None = None
    ca_bundle: Path | None = None

    connection_test: ClassVar[ConnectionTest] = "search"

    @property
    def address_text(self) -> str:
        """The base URL of the service."""
        return self.url

    @model_validator(mode="after")
    def _check_authentication(self) -> Self:
        if bool(self.username) != (self.password_env is not None):
            raise ValueError("username and password_env must be set together")
        if self.username and self.token_env:
            raise ValueError("set either token_env, or username and password_env")
        return self


Hl7Name = Annotated[
    str,
    Field(
        pattern="^[!-%'-\\[\\]_-{}]*$",
        max_length=20,
        description="at most 20 ASCII characters, without spaces and without | ^ & ~ "
        "and backslash",
    ),
]
"""An application or a facility: Namespace ID of an HD (HL7 v2.5.1 2.A.33).

The characters need no escape sequences.
"""


class Hl7Destination(_Destination, TcpPeer):
    """A RIS or an interface engine that receives HL7 v2 messages over MLLP.

    Attributes:
        per: What one message reports: all images of an examination, or one image.
        version: Version ID (MSH-12).
        character_set: The character set of the messages (MSH-18).
        acknowledgment: The acknowledgment mode (HL7 v2.5.1 2.9). "original" means that
            the peer acknowledges after it has processed the message. "enhanced"
            requests an acknowledgment after the message was stored.
        sending_application: MSH-3.
        sending_facility: MSH-4.
        receiving_application: MSH-5.
        receiving_facility: MSH-6.
    """

    type: Literal["hl7"]
    results: tuple[()] = Field(
        default=(), description="an empty list; a message has the whole result"
    )
    modality: Literal["OT"] = "OT"
    transfer_syntax: Literal["uncompressed"] = "uncompressed"
    commitment: Literal[False] = False
    per: Literal["examination", "image"] = "examination"
    version: Literal["2.3.1", "2.4", "2.5", "2.5.1"] = "2.5.1"
    character_set: CharacterSet = "utf-8"
    acknowledgment: Literal["original", "enhanced"] = "original"
    sending_application: Hl7Name = "FRACTURE_NODE"
    sending_facility: Hl7Name = ""
    receiving_application: Hl7Name = ""
    receiving_facility: Hl7Name = ""

    connection_test: ClassVar[ConnectionTest] = "connect"
    gets_messages: ClassVar[bool] = True

    @property
    def result_types(self) -> tuple[str, ...]:
        """The type of the HL7 message.

        A message can state that there is no result, so notices are not needed.
        """
        return ("hl7_message",) if self.per == "image" else ("exam_hl7_message",)

    @property
    def address_text(self) -> str:
        """The host and port, as mllp://host:port; with TLS, as mllps://host:port."""
        return f"mllp{'s' * self.tls}://{self.host}:{self.port}"


def _type(value: Any) -> str | None:  # noqa: ANN401 - any TOML value
    """Return the value of the key `type` of a destination; None if it is missing."""
    if isinstance(value, _Destination):
        return str(getattr(value, "type", None))
    return str(value["type"]) if isinstance(value, dict) and "type" in value else None


# The discriminator is a function, because pydantic does not allow validators on a
# discriminator field, and Table validates every field.
Destination = Annotated[
    Annotated[DicomDestination, Tag("dicom")]
    | Annotated[SenderDestination, Tag("sender")]
    | Annotated[StowDestination, Tag("stow")]
    | Annotated[Hl7Destination, Tag("hl7")],
    Discriminator(_type),
]
DestinationType = Literal["dicom", "sender", "stow", "hl7"]


def names_are_unique(
    destinations: tuple[Destination, ...],
) -> tuple[Destination, ...]:
    """Check that no two destinations have the same name, and return them unchanged.

    Raises:
        ValueError: Two destinations have the same name.
    """
    names = [each.name for each in destinations]
    if duplicates := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two destinations are named {', '.join(sorted(duplicates))}")
    return destinations
