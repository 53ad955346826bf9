"""`python -m attndistill`: what DVC and MLflow call, so that the code of the working copy runs."""

import sys
from typing import NoReturn


def run() -> NoReturn:
    """The command line as a process: SIGTERM ends it as Ctrl-C does, with code 143."""
    try:
        from attndistill.cli import main
        from attndistill.core.ownership import ended_in_order
        from attndistill.core.process import begin_process, end_process

        begin_process()
        with ended_in_order() as received:
            code = main()
    except ModuleNotFoundError as absent:
        if absent.name is None or absent.name.startswith("attndistill"):
            raise
        own = "the environment that `make repro` sets up is .venv; elsewhere: pip install attndistill"
        print(f"attndistill: {absent.name} is not installed for {sys.executable}; {own}", file=sys.stderr)
        sys.exit(2)
    end_process(128 + received[0] if received else code)


if __name__ == "__main__":
    run()
