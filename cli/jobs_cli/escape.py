"""Text of others, made safe to show: a job's name must not be able to drive a terminal."""


def escape(text: str) -> str:
    r"""Replace all that does not print as itself: control characters, line ends, bidi marks.

    What is escaped reads as in Python: `\x1b`, `\n`, `\u202e`. A byte that was no UTF-8 (it came in
    as a lone surrogate) reads as that byte: `\xff`.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
