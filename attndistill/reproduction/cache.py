"""DVC's cache by md5: files/md5/ab/cdef..., a folder by its listing. Every byte that is taken is held against its name.

A reader would get wrong: the name of a folder ends with .dir and is the md5 of its listing, which names its files.
"""

import configparser
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from attndistill.core.artifacts import read_json, replacing_directory
from attndistill.core.words import shown

_PART = 2**20


@dataclass(frozen=True)
class Cache:
    """The caches of a project, searched in their order."""

    folders: Sequence[Path]
    _sound: dict[str, str | None] = field(default_factory=dict, compare=False)

    def find(self, md5: str) -> Path | None:
        """Where the bytes of that name lie; of a folder, its listing."""
        places = (folder / "files" / "md5" / md5[:2] / md5[2:] for folder in self.folders)
        return next((place for place in places if place.is_file()), None)

    def fault(self, md5: str) -> str | None:
        """What is wrong with what is cached under that name; None where it is whole, or not there at all."""
        if md5 not in self._sound:
            self._sound[md5] = self._fault(md5)
        return self._sound[md5]

    def has(self, md5: str) -> bool:
        """Whether all of it is there and whole."""
        if self.find(md5) is None or self.fault(md5):
            return False
        return not md5.endswith(".dir") or all(self.find(inner) for _, inner in self.listing(md5))

    def listing(self, md5: str) -> list[tuple[str, str]]:
        """(path, md5) of the files of a folder. Raises ValueError for a listing that is none."""
        place = self.find(md5)
        assert place is not None
        try:
            found = [(str(entry["relpath"]), str(entry["md5"])) for entry in read_json(place)]
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{place} is not a listing of files: {_AGAIN}") from None
        for path, _ in found:
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise ValueError(f"{place} names a file outside of its folder: {shown(path)}")
        return found

    def take(self, md5: str, destination: Path) -> None:
        """Copy a file or a folder out. Raises ValueError for bytes that were changed or are missing."""
        place = self.find(md5)
        if place is None:
            raise ValueError(f"{md5} is not in the cache")
        if not md5.endswith(".dir"):
            destination.parent.mkdir(parents=True, exist_ok=True)
            _copy(place, destination, md5)
            return
        if fault := self.fault(md5):
            raise ValueError(fault)
        destination.parent.mkdir(parents=True, exist_ok=True)
        with replacing_directory(destination) as made:
            for path, inner in self.listing(md5):
                source = self.find(inner)
                if source is None:
                    raise ValueError(f"{path} ({inner}) of folder {md5} is not in the cache")
                (made / path).parent.mkdir(parents=True, exist_ok=True)
                _copy(source, made / path, inner)

    def _fault(self, md5: str) -> str | None:
        place = self.find(md5)
        if place is None:
            return None
        found = _md5(place)
        if found != md5.removesuffix(".dir"):
            return f"{place} was changed: its md5 is {found}; {_AGAIN}"
        try:
            parts = self.listing(md5) if md5.endswith(".dir") else []
        except ValueError as error:
            return str(error)
        return next(filter(None, (self.fault(inner) for _, inner in parts)), None)


_AGAIN = "remove it and run `dvc fetch`, or the stage that makes it"


def caches_of(folder: Path) -> Cache:
    """The caches that an experiment's folder uses: its own configuration's, the repository's, DVC's usual one."""
    found: dict[Path, None] = {}
    for place in (folder, *folder.parents):
        if (place / ".dvc").is_dir():
            named = [_cache_in(file) for file in _configurations(place)]
            found |= dict.fromkeys([path for path in named if path], None)
            found[(place / ".dvc" / "cache").resolve()] = None
        if (place / ".git").exists():
            break
    return Cache(tuple(found))


def _configurations(place: Path) -> Iterator[Path]:
    """DVC's configuration files of a project, the strongest first."""
    yield place / ".dvc" / "config.local"
    yield place / ".dvc" / "config"
    yield Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "dvc" / "config"


def _read(file: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(file)
    except (configparser.Error, OSError, UnicodeDecodeError):
        return configparser.ConfigParser()  # DVC itself will say so
    return parser


def _cache_in(file: Path) -> Path | None:
    given = _read(file).get("cache", "dir", fallback="")
    return (file.parent / given).resolve() if given else None


def fetched(wanted: Sequence[str], folder: Path, into: Path) -> Cache | None:
    """What the remotes of an experiment's folder have of these md5, in a cache made for it below `into`.

    DVC fetches by stages; by md5 alone it does so for a project in a scratch folder whose only file names it.

    Returns:
        None where no remote is configured.
    """
    merged = _remotes(folder)
    if not _names(merged):
        return None
    project = Path(tempfile.mkdtemp(prefix="fetch-", dir=into))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "-q", "--no-scm"], cwd=project, env=environment, capture_output=True, check=True)
    with (project / ".dvc" / "config.local").open("w") as text:
        merged.write(text)
    for number, md5 in enumerate(wanted):
        named = f"outs:\n- md5: {md5}\n  hash: md5\n  path: out-{number}\n"
        (project / f"out-{number}.dvc").write_text(named)
    for name in _names(merged):
        subprocess.run(
            [*dvc, "fetch", "-q", "-r", name], cwd=project, env=environment, capture_output=True, check=False
        )
    return Cache((project / ".dvc" / "cache",))


def has_remote(folder: Path) -> bool:
    """Whether an experiment's folder has a remote to fetch from."""
    return bool(_names(_remotes(folder)))


def _names(remotes: configparser.ConfigParser) -> list[str]:
    """Of the sections `['remote "name"']`."""
    return [found[1] for name in remotes.sections() if (found := re.fullmatch(r"""'?remote "(.+)"'?""", name))]


def _remotes(folder: Path) -> configparser.ConfigParser:
    merged = configparser.ConfigParser(interpolation=None)
    for place in reversed([place for place in (folder, *folder.parents) if (place / ".dvc").is_dir()]):
        for file in reversed(list(_configurations(place))):
            for name, section in _read(file).items():
                if "remote" in name:
                    merged.read_dict({name: _absolute(section, file.parent)})
    return merged


def _absolute(section: Mapping[str, str], folder: Path) -> dict[str, str]:
    """A remote's settings; DVC reads a relative folder as relative to its own file's."""
    url = section.get("url", "")
    plain = url and "://" not in url and not Path(url).is_absolute()
    return {**section, **({"url": str((folder / url).resolve())} if plain else {})}


def _copy(source: Path, destination: Path, md5: str) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    with source.open("rb") as reader, destination.open("wb") as writer:
        while part := reader.read(_PART):
            digest.update(part)
            writer.write(part)
    if digest.hexdigest() != md5:
        destination.unlink()
        raise ValueError(f"{source} was changed: its md5 is {digest.hexdigest()}; {_AGAIN}")
    shutil.copymode(source, destination)
    destination.chmod(0o644)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
