"""Makes text from other applications safe to store and to show."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def replace_unprintable(text: str) -> str:
    """Return a text with REPLACEMENT in place of each unprintable character.

    An unprintable character, such as a control character, may be invalid in XML or in a
    database, and may control a terminal.
    """
    return "".join(each if each.isprintable() else REPLACEMENT for each in text)
