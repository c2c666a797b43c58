"""Makes a token with which a person or a program may use the web pages and the API.

The command prints the token, and a line for the settings. The line contains a hash of
the token (SHA-256), not the token itself. So the token cannot be shown again. The token
is random and long, so a hash without salt is safe.
"""

import argparse
import secrets
import sys
from hashlib import sha256

from pydantic import ValidationError

from config.access import Token

MESSAGE = """\
The token, which is shown only now. Give it to the person or program that will use it:

  {token}

The line to add to the list `tokens` under [api] in the settings. Restart the node then:

  {line}
"""


def main() -> None:
    """Print a new token, and the line for the settings that allows its use."""
    parser = argparse.ArgumentParser("fracture-node token", description=__doc__)
    parser.add_argument("name", help="name of the token's user in the log")
    parser.add_argument(
        "--role",
        choices=["viewer", "operator"],
        required=True,
        help="viewers may read, operators may also act",
    )
    arguments = parser.parse_args()
    token = secrets.token_urlsafe(32)
    digest = sha256(token.encode()).hexdigest()
    try:
        Token(name=arguments.name, role=arguments.role, sha256=digest)
    except ValidationError:
        parser.error(
            f"the name is {arguments.name!r}; expected 1 to 32 characters of a-z, 0-9, "
            "- and _, the first a letter or digit"
        )
    fields = (
        f'name = "{arguments.name}", role = "{arguments.role}", sha256 = "{digest}"'
    )
    sys.stdout.write(MESSAGE.format(token=token, line=f"{{ {fields} }},"))


if __name__ == "__main__":
    main()
