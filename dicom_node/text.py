"""Text from other applications, made safe to store and to show."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def replace_unprintable(text: str) -> str:
    """Replace each unprintable character, such as a control character, by REPLACEMENT.

    Such a character may be invalid in XML, in a database or on a terminal.
    """
    return "".join(each if each.isprintable() else REPLACEMENT for each in text)
