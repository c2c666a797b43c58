"""Settings of the web application: tokens, and users that a reverse proxy names."""

from hashlib import sha256
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from config.base import Host, Name, Network, Port, Table, is_loopback
from config.destinations import FromEnvironment

SHORTEST_TOKEN = 20
"""Minimum length of a token in characters. Longer tokens cannot be guessed over a
network."""

Role = Literal["viewer", "operator"]
"""A viewer may look and have images analyzed. An operator may also request actions."""


class Token(Table):
    """A token that identifies a program or a group of users.

    Attributes:
        name: The name in the log.
        role: The role of users with this token.
        sha256: The SHA-256 of the token in hexadecimal digits; empty if `env` is given.
        env: The environment variable that contains the token itself.
    """

    name: Name
    role: Role
    sha256: str = Field(
        default="",
        pattern="^([0-9A-Fa-f]{64})?$",
        description="the 64 hexadecimal digits that `fracture-node token` prints",
    )
    env: FromEnvironment | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if bool(self.sha256) == (self.env is not None):
            raise ValueError(
                "give either sha256, as `fracture-node token` prints it, or env, the "
                "variable of the environment that holds the token"
            )
        return self

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the token.

        Tokens are random and long. They need no slow hash for protection, unlike
        passwords that people choose.
        """
        if self.env is None:
            return bytes.fromhex(self.sha256)
        return sha256(self.env.value.encode(errors="surrogateescape")).digest()


def _each_once(given: tuple[Token, ...]) -> tuple[Token, ...]:
    names = [each.name for each in given]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two tokens are named {', '.join(sorted(twice))}")
    return given


class ApiSettings(Table):
    """Settings of the web application; node.toml documents each key."""

    host: Host
    port: Port
    processes: int = Field(ge=0, le=1)
    tokens: Annotated[tuple[Token, ...], AfterValidator(_each_once)]
    trusted_proxies: tuple[Network, ...]
    proxy_user_header: str = Field(
        pattern="^([A-Za-z][A-Za-z0-9-]*)?$",
        description="the name of an HTTP header such as X-Remote-User, or nothing",
    )
    operators: tuple[str, ...]

    @model_validator(mode="after")
    def _whom_to_believe(self) -> Self:
        if self.proxy_user_header and not self.trusted_proxies:
            raise ValueError(
                "proxy_user_header needs trusted_proxies, the networks of the proxies "
                "that are believed; anyone else can send that header, too"
            )
        if self.proxy_user_header and not all(
            network.prefixlen for network in self.trusted_proxies
        ):
            raise ValueError("trusted_proxies believes everybody; name your proxies")
        if self.operators and not self.proxy_user_header:
            raise ValueError(
                "operators are people whom a proxy names; set proxy_user_header, too"
            )
        return self

    @property
    def guarded(self) -> bool:
        """Whether users must identify themselves."""
        return bool(self.tokens or self.proxy_user_header)


_NOBODY = (
    "nothing says who may use the page. Make a token with `fracture-node token NAME "
    "--role viewer` and put the line that it prints under [api]; or have a proxy name "
    "people (trusted_proxies, proxy_user_header); or listen on 127.0.0.1, with no proxy"
)


def access_problems(api: ApiSettings) -> list[str]:
    """Return the problems that must be solved before pages may be served, one per line.

    These are not errors of the settings as such: most commands serve nothing, and may
    run without the environment variables.
    """
    wrong = [
        f"api.tokens: {each.env.variable}, where the token {each.name} is to stand, "
        f"holds {len(each.env.value)} characters; set it in the environment, to "
        f"{SHORTEST_TOKEN} or more that nobody can guess"
        for each in api.tokens
        if each.env is not None and len(each.env.value) < SHORTEST_TOKEN
    ]
    if not (api.guarded or is_loopback(api.host)):
        wrong.append(f"api.host: other machines can reach {api.host}, and {_NOBODY}")
    elif not api.guarded and api.trusted_proxies:
        wrong.append(f"api.trusted_proxies: others come by a proxy, and {_NOBODY}")
    return wrong
