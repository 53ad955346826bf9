"""Whether the compressed data of a JPEG reach to the end of its picture.

Where they do not (a file cut and closed again, bytes lost in a transfer), libjpeg fills the rest with grey and only
warns, and Pillow drops the warning. So the question is put to the decoder itself: bytes that nobody wrote are inserted
where the data of each scan (and restart interval) end. A whole picture never reads so far and stays as it was; one that
has run out of data takes them for pixels.

What this does not see: bytes that are wrong but as many (a decoder that lost its place may find it again, and then
every code is a legal one), data that are left over, less than the last block, a cut that falls exactly between two
restart intervals, and a progressive file that lacks whole scans (it is a coarser picture, and legal).
"""

import re
from collections import Counter
from dataclasses import dataclass

# 00 first: after a fill byte FF it makes a data byte of both. No FF after it: nothing that looks like a marker.
_FILLER = bytes([0, *(1 + (167 * place + 89) % 251 for place in range(511))])
_MARKER = re.compile(rb"\xff([\x01-\xfe])")
_SCAN_END = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_RESTARTS = [bytes([0xFF, number]) for number in range(0xD0, 0xD8)]
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_START_OF_IMAGE, _METADATA, _FILL = b"\xff\xd8", 0xE1, 0xFF
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_IN_DETAIL = {0xC2, 0xC6, 0xDD}  # progressive frames, restart interval
_MOST_MARKERS, _MOST_SCANS = 10_000, 100
_MOST_FILLER = 2**26  # bytes; beyond, a restart interval gets the least
_LEAST_FILLER = 8
_ARITHMETIC = {0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}


@dataclass(frozen=True)
class Padded:
    """A JPEG file with filler after each part of its compressed data.

    Attributes:
        data: the file; the original where it is arithmetically coded (such data may end early, by the standard).
        in_detail: whether only the full size shows each change: later scans refine the picture (progressive), or it
            falls into parts that stand alone (restart intervals).
        ends_grey: whether data that run out are bound to leave the last block grey: one scan is all there is. Then a
            picture with another last block needs no second look.
    """

    data: bytes
    in_detail: bool
    ends_grey: bool


def padded(data: bytes, blocks: int) -> Padded:
    """The same picture if its data are whole, and another one if they end too early.

    Args:
        data: the file.
        blocks: of 8 x 8 pixels in the picture; a scan has no more restart intervals.

    Raises:
        ValueError: more markers, restart intervals or scans than a picture has.
    """
    parts: list[bytes] = []
    kinds: Counter[int] = Counter()
    copied = position = 2
    room = _MOST_FILLER
    while (marker := _MARKER.search(data, position)) and marker[1][0] != _END_OF_IMAGE:
        position = marker.end()
        kinds[marker[1][0]] += 1
        if kinds[_START_OF_SCAN] > _MOST_SCANS or kinds.total() > _MOST_MARKERS:
            raise ValueError("more JPEG markers or scans than a picture has")
        if marker[1][0] not in _ALONE:
            position += int.from_bytes(data[position : position + 2])
        if marker[1][0] == _START_OF_SCAN:
            end = _SCAN_END.search(data, position)
            stop = end.start() if end else len(data)
            scan, room = _filled(data[position:stop], room, blocks)
            parts += [data[copied:position], scan, _FILLER]
            copied = position = stop
    whole = data if kinds.keys() & _ARITHMETIC else b"".join([data[:2], *parts, data[copied:]])
    in_detail = bool(kinds.keys() & _IN_DETAIL)
    return Padded(whole, in_detail, ends_grey=not in_detail and kinds[_START_OF_SCAN] == 1)


def without_metadata(data: bytes) -> bool:
    """Whether a file is a JPEG that has no EXIF or XMP before its picture: nothing that may say that it is turned."""
    position = 2
    while data[:2] == _START_OF_IMAGE and data[position : position + 1] == b"\xff":
        kind = int.from_bytes(data[position + 1 : position + 2])
        if kind == _START_OF_SCAN:
            return True
        if kind in _ALONE or kind in (_FILL, _METADATA):
            break  # odd, or told
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return False


def _filled(scan: bytes, room: int, blocks: int) -> tuple[bytes, int]:
    """Filler before each restart marker of a scan, and how many bytes of filler may follow elsewhere."""
    found = {marker: count for marker in _RESTARTS if (count := scan.count(marker))}
    total = sum(found.values())
    if total > blocks:
        raise ValueError(f"{total} restart markers are more than its {blocks} blocks")
    filler = _FILLER[: max(_LEAST_FILLER, room // max(total, 1))]
    for marker in found:
        scan = scan.replace(marker, filler + marker)
    return scan, max(0, room - len(filler) * total)
