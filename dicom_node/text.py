"""Text from other applications, made safe to store and to show."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def replace_unprintable(text: str) -> str:
    """Replace each unprintable character, such as a control character, by REPLACEMENT.

    An unprintable character may be invalid in XML or in a database, and may control a
    terminal.
    """
    return "".join(each if each.isprintable() else REPLACEMENT for each in text)
