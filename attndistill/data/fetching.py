"""Fetching a published file: resumed where it broke off, and kept only if its SHA-256 is the one that was published."""

import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from enum import Enum
from http.client import HTTPException
from pathlib import Path
from time import sleep

from attndistill.core.artifacts import file_digest
from attndistill.core.reading import machine_fault, regular_file
from attndistill.core.words import shown

Progress = Callable[[int, int | None], None]
"""Called with (bytes so far, bytes in all if the server says)."""

_SCHEMES = ("http", "https", "file")
_CHUNK = 2**20
_LONGEST_PAUSE = 30.0  # seconds
_MAY_BE_CUT = "; the server did not say how long the file is, so it may have been cut off: run again"
_RANGE = re.compile(r"bytes (\d+)-")


def silent(done: int, total: int | None) -> None:
    """No progress report."""


def fetch(
    url: str, sha256: str, destination: Path, *, attempts: int = 5, timeout: float = 60, progress: Progress = silent
) -> Path:
    """Download `url` to `destination`, by way of `destination`.part, which a broken download leaves to go on from.

    Args:
        url: http, https or file.
        sha256: what the file must digest to, 64 hexadecimal digits.
        destination: where it goes; already there with that digest, nothing is downloaded.
        attempts: how often in a row to connect without getting further; each goes on where the last broke off, and
            waits longer than the last (1, 2, 4 seconds, at most half a minute).
        timeout: seconds without a byte that count as broken.
        progress: called after each chunk.

    Returns:
        `destination`.

    Raises:
        ValueError: a bad URL or digest, a server that refuses, a download that stays incomplete, or another content
            than published (both digests are named and the .part file is removed).
    """
    if urllib.parse.urlsplit(url).scheme not in _SCHEMES:
        raise ValueError(
            f"{shown(url)!r} is no URL to fetch; allowed: {', '.join(f'{scheme}://' for scheme in _SCHEMES)}"
        )
    if not re.fullmatch("[0-9a-f]{64}", sha256.lower()):
        raise ValueError(f"sha256 {shown(sha256)!r} of {shown(url)} is not 64 hexadecimal digits")
    if (
        url.startswith("file:")
        and (local := Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))).exists()
    ):
        regular_file(local, at_most=2**62).close()  # a pipe would keep us waiting, a device fill the disk
    if destination.is_dir():
        raise ValueError(f"{destination} is a folder: a file is wanted to fetch {shown(url)} to")
    if destination.exists():
        _verify(destination, sha256, f"{destination} is already there (remove it to fetch {shown(url)})")
        return destination
    part = destination.with_name(f"{destination.name}.part")
    destination.parent.mkdir(parents=True, exist_ok=True)
    length_known = _download(url, part, attempts, timeout, progress)
    try:
        _verify(part, sha256, shown(url))
    except ValueError as error:
        part.unlink()
        raise ValueError(f"{error}{'' if length_known else _MAY_BE_CUT}") from None
    part.replace(destination)
    return destination


def _verify(path: Path, sha256: str, what: str) -> None:
    found = file_digest(path)
    if found != sha256.lower():
        raise ValueError(f"{what}: its SHA-256 is {found}, {sha256.lower()} was wanted")


def _download(url: str, part: Path, attempts: int, timeout: float, progress: Progress) -> bool:
    """Connect until the file is whole. False where the server did not say how long that is, and just ended."""
    furthest, in_vain, broken = _size(part), 0, "nothing arrived"
    while in_vain < attempts:
        if in_vain:
            sleep(min(2.0 ** (in_vain - 1), _LONGEST_PAUSE))
        try:
            end = _continue(url, part, timeout, progress)
            if end is not _End.EARLY:
                return end is _End.WHOLE
            broken = "the connection closed early"
        except urllib.error.HTTPError as error:
            with error:
                if error.code < 500:
                    raise ValueError(f"{shown(url)}: the server answers {error.code} {shown(error.reason)}") from None
                broken = f"the server answers {error.code} {shown(error.reason)}"
        except urllib.error.URLError as error:
            if isinstance(error.reason, FileNotFoundError | IsADirectoryError):
                raise ValueError(f"{shown(url)}: {error.reason}") from None
            broken = str(error.reason)
        except (OSError, HTTPException) as error:
            if machine_fault(error):
                raise
            broken = shown(error) or type(error).__name__
        in_vain = 0 if _size(part) > furthest else in_vain + 1
        furthest = max(furthest, _size(part))
    raise ValueError(
        f"{shown(url)}: {broken}, {attempts} times without getting further; {_size(part)} bytes are kept in {part}, "
        f"run again to go on"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class _End(Enum):
    """How an answer ended."""

    WHOLE = "whole"
    EARLY = "early"
    UNTOLD = "the server closed, and had not said how long the file is"


def _continue(url: str, part: Path, timeout: float, progress: Progress) -> _End:
    """Append what is missing to `part`."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing lies beyond: whole (or of another file, as the digest will tell)
            error.close()
            return _End.WHOLE
        raise
    with response:
        resumed = _RANGE.match(response.headers.get("Content-Range") or "")
        if not (response.status == 206 and resumed and int(resumed[1]) == have):
            have = 0  # the server sends the whole file
        length = response.headers.get("Content-Length") or ""
        total = have + int(length) if length.isdecimal() else None
        with part.open("r+b" if have else "wb") as file:
            file.seek(have)
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                progress(have, total)
    if total is None:
        return _End.UNTOLD
    return _End.WHOLE if have >= total else _End.EARLY
