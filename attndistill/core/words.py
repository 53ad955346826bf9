"""Text that others wrote (names, labels, classes), as it is shown."""

import unicodedata

LONGEST = 200
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # controls, marks that reorder or hide, surrogates, line ends


def shown(text: str, longest: int = LONGEST) -> str:
    """`text` on one line, with every character that is not printed spelled as Python does; what is longer is cut."""
    seen = text[: longest + 1]
    cut = f"{seen[: longest - 1]}…" if len(seen) > longest else seen
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in _UNSEEN else c for c in cut)
