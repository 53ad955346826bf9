"""Work that is killed (kill -9) in a process of its own, which never trained anything before.

Not a fork of the test's process: once autograd has threads there (a counted step starts them), a fork cannot train.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

_FRESH = multiprocessing.get_context("forkserver")
_FRESH.set_forkserver_preload(["attndistill.library", "attndistill.pipeline", "attndistill.runs"])


def killed_after(saves: int, work: Callable[..., object], /, *given: Any, **named: Any) -> bool:
    """Whether a process that does the work (a module's own function) was killed right after so many checkpoints."""
    child = _FRESH.Process(target=_killed, args=(saves, work, given, named))
    child.start()
    child.join(300)
    assert child.exitcode in (0, -signal.SIGKILL), f"the work ended with exit code {child.exitcode}"
    return child.exitcode == -signal.SIGKILL


def killed_at_rename(number: int, work: Callable[..., object], /, *given: Any) -> bool:
    """Whether a process that does the work (a module's own function) was killed right before so many renames."""
    child = _FRESH.Process(target=_killed_at_rename, args=(number, work, given))
    child.start()
    child.join(300)
    assert child.exitcode in (0, -signal.SIGKILL), f"the work ended with exit code {child.exitcode}"
    return child.exitcode == -signal.SIGKILL


def _killed_at_rename(number: int, work: Callable[..., object], given: tuple[Any, ...]) -> None:
    import torch

    from attndistill.core import artifacts

    torch.set_num_threads(1)
    done = []

    def counted(rename: Callable[..., Any]) -> Callable[..., Any]:
        def renamed(*names: Any, **named: Any) -> Any:
            done.append(1)
            if len(done) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(*names, **named)

        return renamed

    os.rename, os.replace = counted(os.rename), counted(os.replace)
    artifacts._exchanged = counted(artifacts._exchanged)  # by ctypes
    work(*given)


def _killed(saves: int, work: Callable[..., object], given: tuple[Any, ...], named: dict[str, Any]) -> None:
    import torch

    from attndistill.training.checkpoint import Checkpoint

    torch.set_num_threads(1)
    save, done = Checkpoint.save, []

    def counted(self: Checkpoint, state: Any) -> None:
        save(self, state)
        done.append(1)
        if len(done) == saves:
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoint.save = counted  # type: ignore[method-assign]
    work(*given, **named)
