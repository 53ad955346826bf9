"""`python -m attndistill.tracking sync`."""

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from attndistill.tracking import print_sync


def main(argv: Sequence[str]) -> int:
    """Run it; gives the exit code: 1 where something could not be sent."""
    parser = argparse.ArgumentParser(prog="attndistill tracking", description="Send recorded runs to MLflow.")
    commands = parser.add_subparsers(dest="command", required=True)
    sync = commands.add_parser("sync", help="send every run that is not in MLflow yet; again adds nothing twice")
    sync.add_argument("--root", type=Path, default=Path(), help="the directory with params.yaml (default: this one)")
    given = parser.parse_args(argv)
    return print_sync(given.root)


def leave(argv: Sequence[str]) -> NoReturn:
    """Run it and end the process: mlflow leaves threads behind that would be waited for."""
    code = 1
    try:
        code = main(argv)
    except SystemExit as refused:
        code = 2 if refused.code else 0
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(sys.argv[1:])
