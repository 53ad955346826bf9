"""How fast the models of the page are on this machine. The page is the same bytes on every machine, and speeds are not:

    outputs/speed.js    attndistill_speed = {SpeedFile as JSON};

It lies beside the report's folder, outside of every declared output. The page loads it where it is there, and shows
of it what was measured on the page's own models: each is named by the digest of its exhibits.json, which is what the
page read of it, and whose size the measured model must have.
"""

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from attndistill.core.artifacts import first_problem, read_json, write_text
from attndistill.core.programs import program
from attndistill.core.progress import say
from attndistill.core.reading import read_text
from attndistill.core.words import shown
from attndistill.report.entries import TEACHER
from attndistill.report.gallery import Exhibited
from attndistill.report.sentence import pace
from attndistill.results import Digest, Name, Strict, Text, Whole

MOST = 4  # models whose speed is measured: a second and a half each
_BEGINNING, _END = "attndistill_speed = ", ";\n"
_LARGEST = 2**16  # bytes of the file
_PATIENCE = 120.0  # seconds


@dataclass(frozen=True)
class Sized:
    """A model whose size the page shows.

    Attributes:
        name: of the row or the pre-trained model.
        account: SHA-256 of its exhibits.json.
        seed: of the model that was counted.
        parameters, flops: as they were counted.
    """

    name: str
    account: str
    seed: int
    parameters: int
    flops: int


class Measured(Strict):
    """One model, as the process that ran it tells."""

    parameters: Whole
    flops: Whole
    images_a_second: Annotated[float, Field(gt=0)]


class Machine(Strict):
    """What that process tells of all, in the order in which it was asked."""

    place: Text
    models: tuple[Measured, ...]


class Speed(Strict):
    """One model; `weights` is the SHA-256 of what was run."""

    model: Name
    weights: Digest
    images_a_second: Annotated[float, Field(gt=0)]


class Sentence(Strict):
    """What the page's first sentence ends with, of these accounts: the student's and the teacher's."""

    models: tuple[Digest, Digest]
    text: Text


class SpeedFile(Strict):
    """Where it was measured, and each model by its account."""

    place: Text
    models: dict[Digest, Speed]
    sentence: Sentence

    @classmethod
    def read(cls, path: Path) -> "SpeedFile | None":
        """None where there is none, or something else: it is then written anew."""
        if not path.exists():
            return None
        try:
            text = read_text(path, at_most=_LARGEST)
            return cls.model_validate_json(text.removeprefix(_BEGINNING).removesuffix(_END))
        except ValueError:
            return None

    def has(self, one: Sized, weights: str) -> bool:
        """Whether this very model was measured."""
        return one.account in self.models and self.models[one.account].weights == weights

    def write(self, path: Path) -> None:
        """As a script that says one thing; JSON in ASCII is JavaScript, whatever the names hold."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True)
        write_text(path, f"{_BEGINNING}{text}{_END}")


def sized(exhibits: Mapping[str, Exhibited], student: str | None) -> list[Sized]:
    """Whom to measure: the student of the first sentence, the teacher, then others; without those two, nobody."""
    if student is None or student not in exhibits or TEACHER not in exhibits:
        return []
    names = list(dict.fromkeys([student, TEACHER, *exhibits]))[:MOST]
    files = [(exhibits[name].account, exhibits[name].file) for name in names]
    return [Sized(file.model, account, file.seed, file.parameters, file.flops) for account, file in files]


def update(path: Path, models: Sequence[Sized], folder_of: Callable[[str, int], Path]) -> str:
    """Measure the models, unless the file has them already; gives a line that says what came of it.

    Args:
        path: of the file.
        models: as `sized` gives them.
        folder_of: (model, seed) -> where its weights lie.
    """
    try:
        return _updated(path, models, folder_of)
    except subprocess.TimeoutExpired:
        reason = f"{_PATIENCE:.0f} s were not enough; `runtime.speeds: false` leaves it out"
    except (OSError, ValueError) as error:
        reason = shown(error, 300)
    return f"note: no speeds beside the page: {reason}"


def _updated(path: Path, models: Sequence[Sized], folder_of: Callable[[str, int], Path]) -> str:
    if len(models) < 2:
        raise ValueError("the sizes of the teacher and of a student are not known")
    folders = {one: folder_of(one.name, one.seed) for one in models}
    for one in models[:2]:
        if not (folders[one] / "model.json").exists():
            raise ValueError(f"{folders[one]} is not here")
    weights = {one: _weights(folder) for one, folder in folders.items() if (folder / "model.json").exists()}
    held = SpeedFile.read(path)
    if held is None or not all(held.has(one, digest) for one, digest in weights.items()):
        say(f"speeds: measuring {', '.join(one.name for one in weights)}")
        place, speeds = _measured({one: folders[one] for one in weights}, weights)
    else:
        place, speeds = held.place, held.models
    accounts = (models[0].account, models[1].account)
    own, teacher = (speeds[account].images_a_second for account in accounts)
    sentence = Sentence(models=accounts, text=pace((own, teacher), place))
    found = SpeedFile(place=place, models=speeds, sentence=sentence)
    if found != held:
        found.write(path)
    return f"speeds: {models[0].name}{sentence.text.removeprefix(',')}; {path}"


def _weights(folder: Path) -> str:
    found = read_json(folder / "model.json")
    return str(found.get("weights_sha256") if isinstance(found, dict) else None)


def _measured(folders: Mapping[Sized, Path], weights: Mapping[Sized, str]) -> tuple[str, dict[str, Speed]]:
    """Where, and each by its account. Raises ValueError: a model that cannot be run, or is another than the page's."""
    # not imported here: it computes with torch, and nothing of it is in any output
    done = subprocess.run(
        program("attndistill.handover.speed", "main", *(str(folder.absolute()) for folder in folders.values())),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_PATIENCE,
        check=False,
    )
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or [f"measuring ended with {done.returncode}"])[-1])
    try:
        told = Machine.model_validate_json((done.stdout.splitlines() or [""])[-1])
    except ValidationError as error:
        raise ValueError(f"measuring told no speeds: {first_problem(error)}") from None
    if len(told.models) != len(folders):
        raise ValueError(f"measuring told {len(told.models)} speeds of {len(folders)} models")
    speeds = {}
    for (one, folder), found in zip(folders.items(), told.models, strict=True):
        if (found.parameters, found.flops) != (one.parameters, one.flops):
            raise ValueError(f"{folder} is of another size than the page's {one.name}: `attndistill probe` it again")
        speeds[one.account] = Speed(model=one.name, weights=weights[one], images_a_second=found.images_a_second)
    return told.place, speeds
