"""How fast the models of the page are on this machine. The page is the same bytes on every machine, and speeds are not:

    outputs/speed.js    attndistill_speed = {SpeedFile as JSON};

It lies beside the report's folder, outside of every declared output. The page loads it where it is there, and shows
of it what was measured of the page's own models: each is named by the digest of its exhibits.json, which is what the
page read of it, and whose size the measured model must have. Weights do not change a speed: models of one architecture
are measured once, and not again when they are trained anew.
"""

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from attndistill.core.artifacts import digest_of, first_problem, read_json, write_text
from attndistill.core.programs import program
from attndistill.core.progress import say
from attndistill.core.reading import read_text
from attndistill.core.words import shown
from attndistill.report.entries import TEACHER
from attndistill.report.gallery import Exhibited
from attndistill.report.sentence import pace
from attndistill.results import Digest, Name, Strict, Text, Whole

MOST = 4  # architectures whose speed is measured: a second and a half each
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


class Speed(Strict):
    """Of one model: parameters, FLOPs of an image, images a second."""

    parameters: Whole
    flops: Whole
    images_a_second: Annotated[float, Field(gt=0)]


class Speeds(Strict):
    """Of all that were measured together, in the order in which they were given; and where."""

    place: Text
    models: tuple[Speed, ...]


class Paced(Strict):
    """What the page says of one model; `architecture` is a digest of what was run, its weights left out."""

    model: Name
    architecture: Digest
    images_a_second: Annotated[float, Field(gt=0)]


class Sentence(Strict):
    """What the page's first sentence ends with, of these accounts: the student's and the teacher's."""

    models: tuple[Digest, Digest]
    text: Text


class SpeedFile(Strict):
    """Where it was measured, and each model by its account."""

    place: Text
    models: dict[Digest, Paced]
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

    def write(self, path: Path) -> None:
        """As a script that says one thing; JSON in ASCII is JavaScript, whatever the names hold."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True)
        write_text(path, f"{_BEGINNING}{text}{_END}")


def sized(exhibits: Mapping[str, Exhibited], student: str | None) -> list[Sized]:
    """Whose speed is shown: the first sentence's student, the teacher, then others; without those two, nobody's."""
    if student is None or student not in exhibits or TEACHER not in exhibits:
        return []
    names = dict.fromkeys([student, TEACHER, *exhibits])
    files = [(exhibits[name].account, exhibits[name].file) for name in names]
    return [Sized(file.model, account, file.seed, file.parameters, file.flops) for account, file in files]


def update(path: Path, models: Sequence[Sized], folder_of: Callable[[str, int], Path]) -> str:
    """Measure each architecture, unless the file has it already; gives a line that says what came of it.

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
    built = {one: _architecture(folder) for one, folder in folders.items() if (folder / "model.json").exists()}
    first = {built[one]: one for one in reversed(built)}  # of each architecture
    chosen = {kind: first[kind] for kind in list(dict.fromkeys(built.values()))[:MOST]}
    held = SpeedFile.read(path)
    place, known = (held.place, held.models.values()) if held else ("", ())
    rates = {one.architecture: one.images_a_second for one in known}
    if not chosen.keys() <= rates.keys():
        say(f"speeds: measuring {', '.join(one.name for one in chosen.values())}")
        told = _measured({one: folders[one] for one in chosen.values()})
        place, rates = told.place, {kind: one.images_a_second for kind, one in zip(chosen, told.models, strict=True)}
    speeds = {
        one.account: Paced(model=one.name, architecture=kind, images_a_second=rates[kind])
        for one, kind in built.items()
        if kind in rates
    }
    accounts = (models[0].account, models[1].account)
    own, teacher = (speeds[account].images_a_second for account in accounts)
    sentence = Sentence(models=accounts, text=pace((own, teacher), place))
    found = SpeedFile(place=place, models=speeds, sentence=sentence)
    if found != held:
        found.write(path)
    return f"speeds: {models[0].name}{sentence.text.removeprefix(',')}; {path}"


def _architecture(folder: Path) -> str:
    found = read_json(folder / "model.json")
    return digest_of({name: found.get(name) for name in ("image_size", "vit")} if isinstance(found, dict) else {})


def _measured(folders: Mapping[Sized, Path]) -> Speeds:
    """All together. Raises ValueError: a model that cannot be run, or is of another size than the page's."""
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
        told = Speeds.model_validate_json((done.stdout.splitlines() or [""])[-1])
    except ValidationError as error:
        raise ValueError(f"measuring told no speeds: {first_problem(error)}") from None
    if len(told.models) != len(folders):
        raise ValueError(f"measuring told {len(told.models)} speeds of {len(folders)} models")
    for (one, folder), found in zip(folders.items(), told.models, strict=True):
        if (found.parameters, found.flops) != (one.parameters, one.flops):
            raise ValueError(f"{folder} is of another size than the page's {one.name}: `attndistill probe` it again")
    return told
