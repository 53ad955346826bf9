"""Texts from elsewhere on one line, in a bounded length, without what moves a cursor or computes."""

import pytest

from attndistill.core.words import breaks_lines, cell, shown, spelled


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("plain name_1.png", "plain name_1.png"),
        ("Größe 猫 👩\u200d🔬 at 1\u202fAM", "Größe 猫 👩\u200d🔬 at 1\u202fAM"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred\x1b[0m\x9b", r"\x1b[31mred\x1b[0m\x9b"),
        ("exe\u202egpj\u2066\u200f", r"exe\u202egpj\u2066\u200f"),
        ("a\u2028b\ufeff\u00ad", r"a\u2028b\ufeff\xad"),
        ("caf\udce9", r"caf\udce9"),
        ("tag\U000e0041", r"tag\U000e0041"),
    ],
)
def test_letters_stay_and_what_is_hidden_is_escaped(text: str, wanted: str) -> None:
    assert shown(text) == wanted


def test_a_text_of_megabytes_is_cut_in_its_middle() -> None:
    short = shown("a" * 2_500_000 + "\x1b" * 2_500_000)
    assert len(short) <= 400
    assert short.startswith("aaaa")
    assert short.endswith("x1b")
    assert "…" in short
    assert shown("x" * 200) == "x" * 200


def test_what_looks_the_same_is_spelled_apart() -> None:
    assert spelled("e\u0301") == r"'e\u0301'"
    assert spelled("\u00e9") == r"'\xe9'"


@pytest.mark.parametrize("text", ["a\nb", "a\x85", "\u2028", "\u2029", "\x1b", "\udce9"])
def test_what_breaks_a_line_is_found(text: str) -> None:
    assert breaks_lines(text)
    assert not breaks_lines("a\u202fb\u00a0c\u3000d\u200d\u202e")


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-x", "'-x"),
        ("\t=1", r"'\t=1"),
        ("-0.5", "-0.5"),
        ("+1e-3", "+1e-3"),
        (-0.5, -0.5),
        (None, None),
        ("plain", "plain"),
    ],
)
def test_a_text_that_a_spreadsheet_would_compute_is_quoted_and_numbers_stay(value: object, wanted: object) -> None:
    assert cell(value) == wanted
