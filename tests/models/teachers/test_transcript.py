"""docs/teachers.md shows what the command line really says."""

import re

from transcript import PAGE, START, transcript


def without_digests(text: str) -> list[str]:
    return re.sub(r"\b[0-9a-f]{8}\.\.\.", "...", text).splitlines()


def test_the_page_s_transcript_is_what_the_command_line_says(tmp_path):
    shown = "".join(PAGE.read_text().partition(START)[1:])
    assert without_digests(shown) == without_digests(transcript(tmp_path))
