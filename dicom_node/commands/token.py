"""Makes a token with which a program or a person may use the page and /predict.

The command prints the token once, and the line for the settings. The line contains only
the SHA-256 of the token. The token is random and long, so a plain hash is safe.
"""

import argparse
import secrets
import sys
from hashlib import sha256

from pydantic import ValidationError

from config.access import Token

WORDS = """\
The token, which is shown this once; give it to whoever is to use it:

  {token}

The line for the settings, for the list tokens under [api]; restart the node then:

  {line}
"""


def main() -> None:
    """Print a new token."""
    parser = argparse.ArgumentParser("fracture-node token", description=__doc__)
    parser.add_argument("name", help="what the log shall call whoever shows it")
    parser.add_argument(
        "--role",
        choices=["viewer", "operator"],
        required=True,
        help="viewers look, operators may also act",
    )
    given = parser.parse_args()
    token = secrets.token_urlsafe(32)
    digest = sha256(token.encode()).hexdigest()
    try:
        Token(name=given.name, role=given.role, sha256=digest)
    except ValidationError:
        parser.error(
            f"a name has up to 32 of a-z, 0-9, - and _, and begins with a letter or "
            f"digit; {given.name!r} does not"
        )
    line = f'{{ name = "{given.name}", role = "{given.role}", sha256 = "{digest}" }},'
    sys.stdout.write(WORDS.format(token=token, line=line))


if __name__ == "__main__":
    main()
