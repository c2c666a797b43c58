"""What every table of the settings is made of."""

from ipaddress import ip_address
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)


class Table(BaseModel):
    """A frozen table of a TOML file that holds no key but those it knows."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError("true and false are no value for this key")
        return value


# PS3.5 table 6.2-1, AE: at most 16 characters of the default repertoire, neither
# backslash nor control characters; spaces at either end mean nothing.
AeTitle = Annotated[str, Field(pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$")]
LONGEST_TITLE = 16


def _caller_title(title: str) -> str:
    """Check how a caller may call itself: some use bytes that PS3.5 does not allow."""
    if not title.isprintable() or title != title.strip() or not title:
        raise ValueError("should be printable, without spaces at either end")
    if len(title) > LONGEST_TITLE:
        raise ValueError(f"should have at most {LONGEST_TITLE} characters")
    return title


CallerTitle = Annotated[str, AfterValidator(_caller_title)]
Port = Annotated[int, Field(ge=0, le=65535)]
Host = Annotated[str, Field(min_length=1)]


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, and nobody else can reach or read it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"
