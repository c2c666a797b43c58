"""Text from other applications, made safe to store and to show."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def replace_unprintable(text: str) -> str:
    """Replace characters that are not valid in XML, databases or terminals."""
    return "".join(each if each.isprintable() else REPLACEMENT for each in text)
