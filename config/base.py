"""Base class and common field types of the settings tables."""

from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError


class Table(BaseModel):
    """Base class of the tables of a TOML file.

    The tables are frozen. Unknown keys, NaN and infinity are refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _check_type(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401
        """Check a value before it is converted to its type, and return it unchanged.

        Raises:
            PydanticCustomError: The value is a boolean, but the field has another type;
                or the value is a text with NUL or with undecodable bytes.
        """
        field = cls.model_fields[info.field_name or ""]
        is_bool = isinstance(value, bool) and field.annotation is not bool
        if is_bool or (isinstance(value, str | Path) and not _is_text(str(value))):
            raise PydanticCustomError("another_type", "config/errors.py describes it")
        return value


def _is_text(value: str) -> bool:
    """Return whether a text has no NUL and no undecodable bytes."""
    return "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


# PS3.5 table 6.2-1, AE: at most 16 characters of the default repertoire, without
# backslash and control characters. Leading and trailing spaces are not significant.
AeTitle = Annotated[
    str,
    Field(
        pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$",
        description="an AE title: 1 to 16 ASCII characters, without backslash, and "
        "without spaces at either end",
    ),
]


LONGEST_TITLE = 16


def _caller_title(title: str) -> str:
    """Check a calling AE title, and return it unchanged.

    The check is less strict than that of AeTitle, because some callers use bytes that
    PS3.5 does not allow.

    Raises:
        ValueError: The title is empty or too long, has spaces at an end, or cannot be
            printed.
    """
    if not title.isprintable() or title != title.strip() or not title:
        raise ValueError("should be printable, without spaces at either end")
    if len(title) > LONGEST_TITLE:
        raise ValueError(f"should have at most {LONGEST_TITLE} characters")
    return title


CallerTitle = Annotated[
    str,
    Field(
        description="an AE title: 1 to 16 printable characters, without spaces at "
        "either end"
    ),
    AfterValidator(_caller_title),
]
Port = Annotated[int, Field(ge=0, le=65535)]
Host = Annotated[str, Field(min_length=1, description="a host name or an IP address")]
Name = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$",
        description="1 to 32 characters: a to z, 0 to 9, - and _, the first a letter "
        "or a digit",
    ),
]
# RFC 4291 2.5.5.2: the IPv6 form of all IPv4 addresses.
_MAPPED = IPv6Network("::ffff:0:0/96")


def _unmapped(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """Return the IPv4 network if an IPv6 network contains only mapped IPv4 addresses.

    The node compares the addresses of IPv4 peers in their IPv4 form. So a network such
    as "::ffff:10.1.0.0/112" would otherwise contain no peer.
    """
    if not (isinstance(network, IPv6Network) and network.subnet_of(_MAPPED)):
        return network
    first = network.network_address.ipv4_mapped
    return IPv4Network(f"{first}/{network.prefixlen - _MAPPED.prefixlen}")


Network = Annotated[
    IPv4Network | IPv6Network,
    Field(
        description='a network of addresses such as "10.1.0.0/16" or "fd00::/8", with '
        "no bits beyond those of the prefix"
    ),
    AfterValidator(_unmapped),
]


def is_loopback(host: str) -> bool:
    """Return whether a host is a loopback address or "localhost"."""
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a host name
        return host == "localhost"
