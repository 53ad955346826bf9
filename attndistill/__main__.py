"""`python -m attndistill`: what DVC and MLflow call, so that the code of the working copy runs."""

import sys
from typing import NoReturn

from attndistill.cli import main
from attndistill.core.later import import_later
from attndistill.core.ownership import ended_in_order


def run() -> NoReturn:
    """The command line as a process: SIGTERM ends it as Ctrl-C does, with code 143."""
    import_later()
    with ended_in_order() as received:
        code = main()
    sys.exit(128 + received[0] if received else code)


if __name__ == "__main__":
    run()
