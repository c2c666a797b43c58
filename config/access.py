"""Settings of the web application: tokens, and users that a reverse proxy names."""

from hashlib import sha256
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from config.base import Host, Name, Network, Port, Table, is_loopback
from config.destinations import FromEnvironment

SHORTEST_TOKEN = 20
"""Minimum length of a token in characters.

A random token of this length cannot be guessed over a network.
"""

Role = Literal["viewer", "operator"]
"""The role of a user.

A viewer may read everything, analyze images with /predict and give feedback. An
operator may also upload instances, request new analyses and deliveries, and test and
pause destinations.
"""


class Token(Table):
    """A token that identifies a program or a group of users.

    Attributes:
        name: The name of the user in the log and in the audit trail.
        role: The role of users with this token.
        sha256: The SHA-256 of the token in hexadecimal digits; empty if `env` is given.
        env: The environment variable that contains the token itself; None if `sha256`
            is given.
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
    def _check_origin(self) -> Self:
        if bool(self.sha256) == (self.env is not None):
            raise ValueError(
                "set either sha256, as `fracture-node token` prints it, or env, the "
                "environment variable that contains the token"
            )
        return self

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the token, 32 bytes.

        Tokens are random and long. They need no slow hash, unlike passwords that people
        choose.
        """
        if self.env is None:
            return bytes.fromhex(self.sha256)
        return sha256(self.env.value.encode(errors="surrogateescape")).digest()


def _check_unique_names(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
    names = [each.name for each in tokens]
    if duplicates := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two tokens are named {', '.join(sorted(duplicates))}")
    return tokens


class ApiSettings(Table):
    """Settings of the web application; node.toml documents each key."""

    host: Host
    port: Port
    processes: int = Field(ge=0, le=1)
    tokens: Annotated[tuple[Token, ...], AfterValidator(_check_unique_names)]
    trusted_proxies: tuple[Network, ...]
    proxy_user_header: str = Field(
        pattern="^([A-Za-z][A-Za-z0-9-]*)?$",
        description="the name of an HTTP header such as X-Remote-User, or nothing",
    )
    operators: tuple[str, ...]

    @model_validator(mode="after")
    def _check_proxy(self) -> Self:
        if self.proxy_user_header and not self.trusted_proxies:
            raise ValueError(
                "proxy_user_header needs trusted_proxies, the networks of the proxies, "
                "because any client can send that header"
            )
        if self.proxy_user_header and not all(
            network.prefixlen for network in self.trusted_proxies
        ):
            raise ValueError(
                "trusted_proxies contains every address; set the networks of your "
                "proxies"
            )
        if self.operators and not self.proxy_user_header:
            raise ValueError(
                "operators needs proxy_user_header, the header in which a proxy names "
                "the user"
            )
        return self

    @property
    def guarded(self) -> bool:
        """Whether users must identify themselves."""
        return bool(self.tokens or self.proxy_user_header)


_NO_USERS = (
    "no user is configured. Create a token with `fracture-node token NAME --role "
    "viewer` and add the line that it prints under [api]; or let a proxy authenticate "
    "users (trusted_proxies, proxy_user_header); or listen on 127.0.0.1 without a proxy"
)


def access_problems(api: ApiSettings) -> list[str]:
    """Return the reasons why the web application must not start, each in one line.

    The list is empty if the application may start. `load` in config/settings.py does
    not report these reasons, because most commands serve no pages. Those commands may
    run without the environment variables of tokens.
    """
    problems = [
        f"api.tokens: the environment variable {each.env.variable} of the token "
        f"{each.name} has {len(each.env.value)} characters; set it to at least "
        f"{SHORTEST_TOKEN} characters that nobody can guess"
        for each in api.tokens
        if each.env is not None and len(each.env.value) < SHORTEST_TOKEN
    ]
    if not (api.guarded or is_loopback(api.host)):
        problems.append(
            f"api.host: other machines can reach {api.host}, but {_NO_USERS}"
        )
    elif not api.guarded and api.trusted_proxies:
        problems.append(
            f"api.trusted_proxies: a proxy forwards requests, but {_NO_USERS}"
        )
    return problems
