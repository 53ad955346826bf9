"""`attndistill new`: a folder of photos and a teacher become a project that runs, here or wherever it is copied to."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from attndistill.core.artifacts import check_empty, replacing_directory, write_text
from attndistill.core.reading import read_bounded, read_text
from attndistill.core.words import shown
from attndistill.drivers import write_drivers
from attndistill.experiments import Experiment, open_experiment
from attndistill.models.sizes import PRESETS, describe

_PLOTS = Path(__file__).parent / "templates/dvc-plots.html"
_LOOKED_AT = 200  # photos whose headers are read, spread over all
_MOST_BYTES = 2**31  # of a photo
_CACHE = 20e9  # bytes of stored answers from which the teacher runs inside the step in their place
_VIEWS = 40
_PATCHES = ((96, 16), (48, 8), (0, 4))  # (side of the images from which, patch) where no teacher sets it


@dataclass(frozen=True)
class Photos:
    """What lies at the place of the photos.

    Attributes:
        place: the folder, or the list of files.
        count: files that are called images.
        others: files that are not, or whose header is none.
        sides: shorter side of those that were looked at, pixels, in order of size.
        example: one of `others`, or empty.
    """

    place: Path
    count: int
    others: int
    sides: tuple[int, ...]
    example: str

    @property
    def held_out(self) -> int:
        """Images of the test split, about."""
        return max(1, round(0.1 * self.count))

    @property
    def train(self) -> int:
        return self.count - self.held_out


def new_project(
    folder: Path,
    images: Path,
    *,
    teacher: str | None = None,
    student: str = "vit_tiny",
    dvc: bool = True,
    cost: Callable[[Experiment, int, int], str] | None = None,
) -> list[str]:
    """Make the folder: params.yaml, rows.yaml, dvc.yaml, MLproject, .gitignore, README.md.

    Args:
        folder: new, or empty.
        images: a folder of photos, nested or flat, or a list of files; no labels are read.
        teacher: a checkpoint file, a folder stored by this package, or a timm name; None pre-trains one on the photos.
        student: a named size (Table 7).
        dvc: set up git and DVC too.
        cost: (project, images to train on, held out) -> what its pipeline costs, in words.

    Returns:
        What there is, line by line, for people.

    Raises:
        ValueError: one line, and nothing is left: a folder that is not empty, no photos or photos smaller than a patch,
            a teacher that cannot be read, an unknown size, or no git where DVC is asked for.
    """
    check_empty(folder)
    if student not in PRESETS:
        raise ValueError(f"student {shown(student)!r}; allowed: {', '.join(PRESETS)}")
    if dvc and shutil.which("git") is None:
        raise ValueError("git is not installed, which DVC needs; allowed: --no-dvc")
    photos = _look_at(images)
    taught = _teacher(teacher, photos)
    size, patch = taught["image_size"], taught["patch_size"]
    if photos.sides[0] < patch:
        raise ValueError(
            f"{shown(images)} has photos with a side of {photos.sides[0]} px, smaller than a patch; allowed: "
            f"{patch} px or more"
        )
    batch = 2 ** max(0, min(6, (photos.train // 4 or 1).bit_length() - 1))
    settings = {**taught, "student": student, "batch": batch, "cached": _cached(photos, taught)}
    with _whole_or_nothing(folder):
        with replacing_directory(folder) as beside:
            write_text(beside / "params.yaml", _params(photos, settings))
            write_text(beside / "rows.yaml", _ROWS.format(name=_plain(folder)))
            write_text(beside / ".gitignore", _GITIGNORE)
            write_text(beside / ".dvcignore", _DVCIGNORE)
            write_text(beside / "README.md", _readme(folder, photos, dvc))
            config = open_experiment(beside).config("", {})  # refuses what does not fit together
        written = write_drivers(folder)
        told = cost(open_experiment(folder), photos.train, photos.held_out) if cost else ""
        if dvc:
            _set_up_dvc(folder)
        else:
            for path in written:
                if path.name != "MLproject":
                    path.unlink()
    return [
        *_of_photos(photos),
        f"teacher   {taught['told']}",
        f"student   {describe(size, config.student.plain())}",
        *([f"cost      {told}"] if told else []),
        f"project   {folder}: params.yaml, rows.yaml, MLproject{', dvc.yaml, git and DVC set up' if dvc else ''}",
        f"next      cd {folder}; then the commands of its README.md: what it costs, run, export",
    ]


def _look_at(place: Path) -> Photos:
    """Count the photos and read the sides of some. Raises ValueError where there are too few."""
    from attndistill.data.decoding import BadImageError, check_name, upright_sides
    from attndistill.data.image_tree import unlabelled_photos

    if not place.exists():
        raise ValueError(f"{shown(place)} does not exist; allowed: a folder of photos, or a list of files")
    if not place.is_dir():
        try:
            read_text(place)
        except ValueError as error:
            raise ValueError(f"{error}; allowed: a folder of photos, or a list of files, a line each") from None
    files = unlabelled_photos(place, None) if place.is_dir() else unlabelled_photos(None, place)
    named, others = [], []
    for name in files.names:
        try:
            check_name(name)
            named.append(name)
        except BadImageError:
            others.append(name)
    sides = []
    for name in named[:: max(1, len(named) // _LOOKED_AT)]:
        try:
            sides.append(min(upright_sides(read_bounded(files.root / name, at_most=_MOST_BYTES))))
        except (ValueError, OSError, SyntaxError):
            others.append(name)
    count = len(named) - (len(others) - (len(files.names) - len(named)))
    if count < 3 or not sides:
        raise ValueError(f"{shown(place)} has {count or 'no'} photo{'s' * (count != 1)}; allowed: 3 or more")
    return Photos(place.resolve(), count, len(others), tuple(sorted(sides)), shown(others[0]) if others else "")


def _of_photos(photos: Photos) -> list[str]:
    low, high = photos.sides[0], photos.sides[-1]
    some = "" if len(photos.sides) == photos.count else f" (of {len(photos.sides):,} looked at)"
    left = f"; {photos.others} other files are left out ({photos.example})" if photos.others else ""
    return [
        f"photos    {photos.count:,}: {photos.train:,} to train on, {photos.held_out:,} held out; shorter side {low} "
        f"to {high} px, median {median(photos.sides):.0f}{some}{left}"
    ]


def _teacher(given: str | None, photos: Photos) -> dict[str, Any]:
    """Its source for params.yaml, image_size, patch_size, mean, std, what is stored of an answer, a line for people."""
    if given is None:
        side = int(min(224, median(photos.sides)))
        patch = next(patch for from_side, patch in _PATCHES if side >= from_side)
        size = max(patch * 2, side // patch * patch)
        sizes = {**PRESETS["vit_small"], "patch_size": patch, "position": "sincos"}
        return {
            "source": "null                # pre-trained here, by masked autoencoding",
            "sizes": "  preset: vit_small\n",
            **{"image_size": size, "patch_size": patch, "embed_dim": 384, "num_heads": 6, "position": "sincos"},
            "told": f"pre-trained here: {describe(size, sizes)}",
        }
    from attndistill.models.teachers.fitting import Wanted, empty
    from attndistill.models.teachers.loading import load_teacher

    path = Path(given)
    if not given.strip():
        raise ValueError(f"teacher {shown(given)!r}; allowed: a checkpoint file, or a timm name")
    if path.exists():
        report = load_teacher(path, Wanted()).report
        names = ("image_size", "patch_size", "embed_dim", "num_heads")
        facts: dict[str, Any] = {name: getattr(report, name) for name in names}
        source = f"{{name: checkpoint, path: {_quoted(path.resolve())}, sha256: {report.sha256}}}"
        told = f"{report.file} ({report.format}), SHA-256 {report.sha256[:12]}…"
    elif "/" in given or given.endswith((".pth", ".pt", ".safetensors", ".bin")):
        raise ValueError(f"{shown(given)} does not exist; allowed: a checkpoint file, or a timm name")
    else:
        from attndistill.models.weightless import weightless

        with weightless():
            model = empty(given)
        facts = {"image_size": model.patch_embed.img_size[0], "patch_size": model.patch_embed.patch_size[0]}
        facts |= {"embed_dim": model.embed_dim, "num_heads": model.blocks[0].attn.num_heads}
        facts |= {name: list(model.pretrained_cfg[name]) for name in ("mean", "std")}
        source, told = f"{{name: timm, timm_name: {given}}}", f"{given} (timm), fetched when it is first needed"
    size, patch = facts["image_size"], facts["patch_size"]
    lines = "" if path.exists() else _sizes_of_timm(given)
    told = f"{told}, {size} px, patch {patch}, width {facts['embed_dim']}"
    return {"source": source, "sizes": lines, "told": told, "position": "learnable", **facts}


def _sizes_of_timm(name: str) -> str:
    from attndistill.models.teachers.sizes import sizes_of_file

    return "".join(f"  {key}: {value}\n" for key, value in sizes_of_file({"timm_name": name}).items())


def _cached(photos: Photos, taught: Mapping[str, Any]) -> bool:
    """Whether the teacher's answers to 40 views fit a disk: class token and attention of every head, in float16."""
    patches = (taught["image_size"] // taught["patch_size"]) ** 2
    each = 2 * (taught["embed_dim"] + taught["num_heads"] * (1 + patches))
    return bool(_VIEWS * photos.train * each <= _CACHE)


def _plain(folder: Path) -> str:
    """The folder's name as an experiment may be called."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in folder.resolve().name)[:60]


def _quoted(path: Path) -> str:
    """A path as a YAML string, whatever is in it."""
    import json

    return json.dumps(str(path), ensure_ascii=False)


@contextmanager
def _whole_or_nothing(folder: Path) -> Iterator[None]:
    """Remove what was written where the block fails; the folder itself stays if it was there, empty."""
    there = folder.exists()
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if there:
            folder.mkdir(exist_ok=True)
        raise


def _set_up_dvc(folder: Path) -> None:
    """A git repository, unless the folder lies in one, and DVC in it. Raises ValueError with what either said."""
    inside = subprocess.run(["git", "-C", folder, "rev-parse", "--show-toplevel"], capture_output=True, text=True)
    below = [] if inside.returncode else ["--subdir"]
    for command in ([] if below else [["git", "init", "-q"]]) + [[sys.executable, "-m", "dvc", "init", "-q", *below]]:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split())[:300]
            raise ValueError(f"{' '.join(command[-4:])} failed ({shown(said, 300)}); allowed: --no-dvc")
    # `dvc plots` draws the curves of every revision on one axis, offline: DVC's own page loads a library
    (folder / ".dvc" / _PLOTS.name).write_bytes(_PLOTS.read_bytes())
    with (folder / ".dvc" / "config").open("a", encoding="utf-8") as config:
        config.write(f"[plots]\n    html_template = {_PLOTS.name}\n")


def _params(photos: Photos, told: Mapping[str, Any]) -> str:
    featured = list(range(min(6, photos.held_out)))
    place = "root" if photos.place.is_dir() else "list_file"
    return _PARAMS.format(
        place=f"{place}: {_quoted(photos.place)}",
        skip="skip          # " + f"{photos.others} files are no photos; error: name them and stop"
        if photos.others
        else "error         # skip: leave out what cannot be decoded, and list it",
        patch=told["patch_size"],
        size=told["image_size"],
        mean=told.get("mean", [0.485, 0.456, 0.406]),
        std=told.get("std", [0.229, 0.224, 0.225]),
        source=told["source"],
        sizes=told["sizes"] + (f"  patch_size: {told['patch_size']}\n" if told["sizes"].startswith("  preset") else ""),
        position=told["position"],
        student=told["student"],
        batch=told["batch"],
        cached="true " if told["cached"] else "false",
        views=_VIEWS,
        featured=featured,
        neighbours=max(1, min(10, photos.train - 1)),
    )


def _readme(folder: Path, photos: Photos, dvc: bool) -> str:
    run = (
        "dvc repro                                  # runs what must run; again: only what changed"
        if dvc
        else _PIPELINE
    )
    counts = {"train": photos.train, "held_out": photos.held_out}
    return _README.format(name=_plain(folder), run=run, lock=_README_LOCK if dvc else "", **counts)


_PIPELINE = "attndistill pipeline                       # every stage, in this process; resumed where it was stopped"
_ROWS = """\
# What is distilled: a row is a name, a label and what it sets. Add one to compare, for example
#   attention_mse: {{label: AttnDistill with MSE, set: {{distill.attention_loss.name: mse}}}}
name: {name}
rows:
  attndistill:
    label: AttnDistill
    set: {{}}
"""
_GITIGNORE = """\
/outputs/
/.work/
/mlflow.db*
/mlartifacts/
/mlruns/
/dvc_plots/
__pycache__/
.venv/
.attndistill-tmp/
"""
_DVCIGNORE = """\
.work
.venv
mlartifacts
.attndistill-tmp
"""
_PARAMS = """\
# What differs from the defaults; `attndistill config` prints the whole. Any of it can be set on a command as
# --section.key value.
seeds: [0]                    # one student a seed; three or more tell how far figures vary

data:
  set: {{name: photos, {place}, held_out: 0.1}}   # no labels; a tenth is never trained on
  on_bad_image: {skip}

views:
  image_size: {size}
  flip_probability: 0.5
  evaluation_crop: 0.875
  mean: {mean}   # of the images that the teacher was trained on
  std: {std}

# a labelled set to judge by k-NN and regression too:
# datasets: {{mine: {{data: {{set: {{name: image_folder, root: /path/to/labelled}}}}}}}}

teacher:
{sizes}  position: {position}
  source: {source}

student: {{preset: {student}, patch_size: {patch}, position: learnable}}

pretrain:                     # of the baseline from scratch, and of a teacher without a source
  decoder: {{embed_dim: 192, depth: 2, num_heads: 3}}
  recipe: {{epochs: 40, batch_size: {batch}, base_learning_rate: 1.0e-3, warmup_epochs: 4}}

targets:
  cache: {cached}               # false: the teacher runs inside the step, no answers are stored
  views: {views}

distill:                      # the rate is base_learning_rate times batch_size / 256
  recipe: {{epochs: 40, batch_size: {batch}, base_learning_rate: 2.0e-3, warmup_epochs: 4}}

probe:
  agreement: {{neighbours: {neighbours}}}   # cosine to the teacher, shared neighbours: needs no labels

attention:
  images: {featured}   # held-out photos that the report shows

# the student for other programs, in outputs/exported, by a stage of its own (then `attndistill drivers`):
# exports: {{attndistill: {{formats: [timm, pt2], licence: unknown}}}}

runtime: {{threads: null, processes: 1, workers: 2, evaluation_batch_size: 64}}
"""
_README = """\
# {name}

    attndistill pipeline --dry-run --images {train} --test-images {held_out} --classes 1   # what it would cost
    {run}
    attndistill export attndistill --to student   # for timm, without any code of attndistill

Then open outputs/report/index.html. Settings are in params.yaml, what is compared in rows.yaml; `attndistill embed` and
`attndistill neighbours` ask the student about photos.
{lock}"""
_README_LOCK = """
dvc.yaml, MLproject and attndistill.lock are written by `attndistill drivers`: run it after you add a section to
params.yaml or upgrade attndistill. DVC watches attndistill.lock in place of the installed package's code. It does not
watch the photos: after a change there, `dvc repro -s -f prepare`, then `dvc repro`.
"""
