"""The rows that the default ships with: a user may have added others to rows.yaml, and no test depends on them."""

from pathlib import Path

ROWS = """\
name: digits
rows:
  projector_alignment:
    label: Projector alignment only
    set: {distill.lambda: 0.0}
  attndistill:
    label: AttnDistill
    set: {}
"""


def with_shipped_rows(folder: Path) -> Path:
    """The folder, its rows.yaml being the shipped one."""
    (folder / "rows.yaml").write_text(ROWS)
    return folder
