"""Reading an array of a prepared data set, or saying in one line which file is missing or broken."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attndistill.core.reading import machine_fault, regular_file


def read_array(path: Path, *, mapped: bool = False) -> NDArray[Any]:
    """The array in a .npy file; `mapped` leaves it on disk. Raises ValueError naming the file.

    The file is mapped first in any case: a header that claims more than the file holds then costs no memory.
    """
    try:
        regular_file(path, at_most=2**62).close()
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
        extra = path.stat().st_size - array.offset - array.nbytes  # type: ignore[attr-defined]
        if extra:
            raise ValueError(f"{extra} bytes follow its array")
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; run prepare again") from None
    except (OSError, EOFError, ValueError, OverflowError) as error:
        if machine_fault(error):
            raise
        raise ValueError(f"{path} cannot be read ({' '.join(str(error).split())}); run prepare again") from None
    return array if mapped else np.array(array)
