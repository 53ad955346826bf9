"""Texts from elsewhere, fit for one line of a terminal."""


def shown(text: object, most: int = 200) -> str:
    """`text` on one line: what is invisible or moves the cursor is escaped, what is too long is cut in its middle."""
    whole = str(text)
    if len(whole) > most:
        half = (most - 1) // 2
        whole = f"{whole[:half]}…{whole[-half:]}"
    return "".join(x if x.isprintable() else x.encode("unicode_escape", "surrogatepass").decode() for x in whole)
