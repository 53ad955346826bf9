"""Downloads from a real server on this machine that breaks off, lies and refuses."""

import errno
import hashlib
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from attndistill.data import fetching
from attndistill.data.fetching import fetch

CONTENT = np.random.default_rng(0).bytes(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `drops` holds after how many bytes each of the next answers breaks off."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.drops, self.ranges, self.status = CONTENT, [], [], None
        self.obeys_ranges, self.tells_length = True, True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/weights.pth"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        content, start = self.server.content, 0
        if self.server.status:
            self.send_error(self.server.status)
            return
        if wanted and self.server.obeys_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if self.server.tells_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + self.server.drops.pop(0) if self.server.drops else len(content)
        self.wfile.write(content[start:end])
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that would have been made."""
    made: list[float] = []
    monkeypatch.setattr(fetching, "sleep", made.append)
    return made


def test_a_file_arrives_and_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    target = tmp_path / "new" / "weights.pth"
    assert fetch(server.url, DIGEST.upper(), target, progress=lambda *what: told.append(what)) == target
    assert target.read_bytes() == CONTENT
    assert told[-1] == (3_000_000, 3_000_000)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    fetch(server.url, DIGEST, target)
    assert server.ranges == [None]
    assert [path.name for path in target.parent.iterdir()] == ["weights.pth"]


def test_a_download_goes_on_each_time_the_connection_drops(server: Server, tmp_path: Path) -> None:
    server.drops = [1_000_000, 500_000, 1]
    fetch(server.url, DIGEST, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000000-", "bytes=1500000-", "bytes=1500001-"]


def test_a_server_that_drops_often_is_followed_to_the_end_without_a_pause(
    server: Server, tmp_path: Path, pauses: list[float]
) -> None:
    server.drops = [200_000] * 14
    fetch(server.url, DIGEST, tmp_path / "w", attempts=2)
    assert (tmp_path / "w").read_bytes() == CONTENT
    assert len(server.ranges) == 15
    assert pauses == []


def test_tries_in_vain_are_counted_in_a_row_and_wait_longer_each_time(
    server: Server, tmp_path: Path, pauses: list[float]
) -> None:
    server.drops = [0, 0, 1_000_000, 0, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="closed early, 4 times without getting further; 1000000 bytes are kept"):
        fetch(server.url, DIGEST, tmp_path / "w", attempts=4)
    assert pauses == [1, 2, 1, 2, 4]


def test_a_server_that_cannot_resume_and_always_drops_is_given_up(server: Server, tmp_path: Path) -> None:
    server.obeys_ranges = False
    server.drops = [1_000_000] * 9
    with pytest.raises(ValueError, match="3 times without getting further"):
        fetch(server.url, DIGEST, tmp_path / "w", attempts=3)
    assert len(server.ranges) == 4


def test_a_drop_that_reads_as_the_end_is_said_to_be_perhaps_one(server: Server, tmp_path: Path) -> None:
    server.tells_length = False
    server.drops = [1_000_000]
    with pytest.raises(ValueError, match=r"SHA-256 is .*did not say how long the file is, so it may have been cut off"):
        fetch(server.url, DIGEST, tmp_path / "w")
    assert list(tmp_path.iterdir()) == []
    fetch(server.url, DIGEST, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server: Server, tmp_path: Path) -> None:
    server.drops = [1_000_000, 200_000, 0, 0]
    with pytest.raises(
        ValueError, match=r"closed early, 2 times without .*; 1200000 bytes are kept in .*w\.part, run again"
    ):
        fetch(server.url, DIGEST, tmp_path / "w", attempts=2)
    assert (tmp_path / "w.part").read_bytes() == CONTENT[:1_200_000]
    assert not (tmp_path / "w").exists()
    fetch(server.url, DIGEST, tmp_path / "w")
    assert server.ranges[-1] == "bytes=1200000-"
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_a_server_that_cannot_resume_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    server.obeys_ranges = False
    server.drops = [2_000_000]
    fetch(server.url, DIGEST, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=2000000-"]


def test_a_part_that_was_already_whole_is_verified_and_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.part").write_bytes(CONTENT)
    fetch(server.url, DIGEST, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"", b"of another file", CONTENT + b"x"])
def test_another_content_is_refused_with_both_digests_and_leaves_nothing(
    server: Server, tmp_path: Path, left: bytes
) -> None:
    server.content = b"x" + CONTENT[1:]
    (tmp_path / "w.part").write_bytes(left)
    whole = left + server.content[len(left) :]
    message = f"its SHA-256 is {hashlib.sha256(whole).hexdigest()}, {DIGEST} was wanted"
    with pytest.raises(ValueError, match=message):
        fetch(server.url, DIGEST, tmp_path / "w")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_with_another_content_is_kept_and_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"w is already there .*: its SHA-256 is "):
        fetch(server.url, DIGEST, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == b"precious"
    assert server.ranges == []


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, 3)])
def test_a_refusal_is_final_and_a_failing_server_is_asked_again(
    server: Server, tmp_path: Path, status: int, requests: int
) -> None:
    server.status = status
    with pytest.raises(ValueError, match=f"the server answers {status} "):
        fetch(server.url, DIGEST, tmp_path / "w", attempts=3)
    assert len(server.ranges) == requests


def test_a_server_that_is_not_there_is_an_error_naming_the_url(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"http://127\.0\.0\.1:9/w: .*Connection refused, 2 times without getting further"
    ):
        fetch("http://127.0.0.1:9/w", DIGEST, tmp_path / "w", attempts=2)


def test_a_file_url_is_copied(tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(CONTENT)
    fetch((tmp_path / "here").as_uri(), DIGEST, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == CONTENT
    with pytest.raises(ValueError, match="No such file"):
        fetch((tmp_path / "absent").as_uri(), DIGEST, tmp_path / "v")


def test_a_folder_is_no_place_for_a_file(server: Server, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / ".."):
        with pytest.raises(ValueError, match=r"is a folder: a file is wanted to fetch http"):
            fetch(server.url, DIGEST, place)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/w", "/etc/passwd", "data:,x"])
def test_other_kinds_of_url_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="is no URL to fetch; allowed: http://, https://, file://"):
        fetch(url, DIGEST, tmp_path / "w")


def test_a_digest_that_is_none_is_refused_before_anything_is_fetched(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not 64 hexadecimal digits"):
        fetch(server.url, DIGEST[:-1], tmp_path / "w")
    assert server.ranges == []


def test_a_full_disk_ends_the_download_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetching, "_continue", full)
    monkeypatch.setattr(fetching, "sleep", lambda _: pytest.fail("waits for a disk"))
    with pytest.raises(OSError, match="No space left"):
        fetch("https://example.invalid/a", "0" * 64, tmp_path / "a")


def test_a_local_pipe_or_device_is_refused_and_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "pipe"), (Path("/dev/zero"), "device")):
        with pytest.raises(ValueError, match=f"is a {kind}, not a regular file"):
            fetch(path.as_uri(), "0" * 64, tmp_path / "a")


def test_an_address_of_megabytes_is_refused_in_a_short_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no URL to fetch") as caught:
        fetch("x" * 5_000_000, "0" * 64, tmp_path / "a")
    assert len(str(caught.value)) < 400
