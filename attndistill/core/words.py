"""Texts from elsewhere (names, addresses, labels, messages) as a terminal, a chart, a table or a CSV file may show.

A name may hold an escape sequence that recolours a terminal, a bidi override that turns "exe.gpj" round, a line break
that fakes another line, or five megabytes. Letters of every script stay as they are.
"""

import re
import unicodedata

_BREAKING = {"Cc", "Cs", "Zl", "Zp"}
_INVISIBLE = {*_BREAKING, "Cf", "Cn", "Co"}
_JOINERS = "\u200c\u200d"  # Persian and emoji are spelled with them
_FORMULA = re.compile(r"[=+\-@\t\r]")


def breaks_lines(text: str) -> bool:
    """Whether `text` has control characters, line or paragraph separators, or surrogates (bytes that are no UTF-8)."""
    return not text.isprintable() and any(unicodedata.category(letter) in _BREAKING for letter in text)


def shown(text: object, most: int = 200) -> str:
    """`text` on one line: what is invisible or moves the cursor is escaped, what is too long is cut in its middle."""
    short = _cut(str(text), most)
    return short if short.isprintable() else _cut("".join(map(_escaped, short)), 2 * most)


def spelled(text: str, most: int = 200) -> str:
    """`text` quoted, everything outside ASCII escaped: tells apart what looks the same."""
    return ascii(_cut(text, most))


def cell(value: object) -> object:
    """`value` for a cell of a CSV file; a text that a spreadsheet would compute gets a leading '."""
    if not isinstance(value, str):
        return value
    text = shown(value, 32_000)  # Excel's longest
    if not _FORMULA.match(value):
        return text
    try:
        float(value)
    except ValueError:
        return f"'{text}"
    return text


def _escaped(letter: str) -> str:
    hidden = unicodedata.category(letter) in _INVISIBLE and letter not in _JOINERS
    return letter.encode("unicode_escape").decode() if hidden else letter


def _cut(text: str, most: int) -> str:
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"
