"""Reading an array of a prepared data set, or saying in one line which file is missing or broken."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_array(path: Path, *, mapped: bool = False) -> NDArray[Any]:
    """The array in a .npy file; `mapped` leaves it on disk. Raises ValueError naming the file."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; run prepare again") from None
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({' '.join(str(error).split())}); run prepare again") from None
    return array
