"""Every kind of file that the product reads: how a good one is made, and who reads it."""

import gzip
import io
import json
import re
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from damage import Kind
from PIL import Image
from safetensors.torch import save_file

from attndistill.core.artifacts import read_json
from attndistill.core.ownership import _read_owner
from attndistill.data.extraction import extract
from attndistill.data.files import FileImages
from attndistill.data.idx import read_idx
from attndistill.data.image_tree import unlabelled_photos
from attndistill.data.label_subsets import LeftOut, listed_subset
from attndistill.data.preparation import prepare
from attndistill.data.sources import open_source, read_class_list
from attndistill.data.store import open_split
from attndistill.data.views import ViewRecipe
from attndistill.drivers import stale_lock
from attndistill.experiments import open_experiment
from attndistill.models.storage import load_model, save_model
from attndistill.models.teachers.loading import Wanted, load_teacher
from attndistill.models.vit import build_vit
from attndistill.outcomes import read_outcome
from attndistill.reproduction.cache import Cache
from attndistill.reproduction.comparison import _numbers
from attndistill.reproduction.locks import lock_in
from attndistill.results import (
    AttentionFile,
    MetricsFile,
    ProbeFile,
    StudentMaps,
    TableFile,
    TeacherMaps,
    TrainingFile,
)
from attndistill.stages import STAGES
from attndistill.stages.context import check_regular
from attndistill.stages.soundness import _check_teacher_maps, check_weights, whole_data, whole_targets
from attndistill.study.search import read_search
from attndistill.study.storage import Place
from attndistill.targets import LiveTeacher, write_targets
from attndistill.tracking.inputs import listed_outs
from attndistill.tracking.lineage import tags_of
from attndistill.tracking.recorded import lineage_in
from attndistill.tracking.spool import Spool
from attndistill.training.checkpoint import Checkpoint, state_digest

ROOT = Path(__file__).parents[2]
VIT = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2.0, "position": "sincos"}
RECIPE = ViewRecipe(3, 16, (0.2, 1.0), (3 / 4, 4 / 3), 0.5, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
RANDOM = np.random.default_rng(0)
LAST = "9" * 32
Make = Callable[[Path], Path]


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def made(file: str, write: Callable[[Path], object]) -> Make:
    """The file is written by a function of its path."""

    def make(folder: Path) -> Path:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
        return path

    return make


def copied(file: str, of: str) -> Make:
    """The file is one of the repository's."""
    return made(file, lambda path: shutil.copyfile(ROOT / of, path))


def text(file: str, value: Any) -> Make:
    return made(file, lambda path: path.write_text(value if isinstance(value, str) else json.dumps(value)))


NUMBERS = idx_bytes(np.arange(40, dtype=np.uint8))


class Goods:
    """Prepared data, a model, its answers and its maps: made once, copied for each kind."""

    folder: Path  # set before the first is asked for

    @cached_property
    def made(self) -> Path:
        folder = self.folder
        (folder / "idx").mkdir(parents=True)
        for prefix, count in (("train", 12), ("t10k", 6)):
            images = RANDOM.integers(0, 256, (count, 20, 20), dtype=np.uint8)
            (folder / f"idx/{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(images))
            (folder / f"idx/{prefix}-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(count, dtype=np.uint8) % 2))
        for split, count in (("train", 3), ("val", 1)):
            for name in ("ant", "bee"):
                (folder / "tree" / split / name).mkdir(parents=True)
                for number in range(count):
                    pixels = RANDOM.integers(0, 256, (20 + number, 24, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / "tree" / split / name / f"{name}_{number}.JPEG")
        for container, source in (("arrays", "idx"), ("shards", "image_folder")):
            root = str(folder / {"idx": "idx", "image_folder": "tree"}[source])
            opened = open_source(source, {"root": root})
            prepare(opened, folder / container, validation_fraction=0.4, split_seed=0)
        vit = build_vit(16, 0, **VIT)
        save_model(folder / "model", vit, image_size=16, vit=VIT)
        images = open_split(folder / "arrays", "train")
        options = {"views": 2, "verify": 4, "batch_size": 4, "processes": 1}
        identity = {"teacher": "t", "data": "d", "views": "v"}
        teacher = LiveTeacher(vit, torch.device("cpu"))
        unfinished = folder / "unfinished"
        write_targets(teacher, images, RECIPE, folder / "targets", unfinished=unfinished, identity=identity, **options)
        rows = torch.log_softmax(torch.from_numpy(RANDOM.standard_normal((6, 2, 17)).astype(np.float32)), -1)
        shutil.copytree(folder / "arrays", folder / "attention/data")
        np.save(folder / "attention/log_attention.npy", rows.numpy())
        return folder

    def part(self, name: str, file: str) -> Make:
        """A file of a copy of one of them."""

        def make(folder: Path) -> Path:
            shutil.copytree(self.made / name, folder, dirs_exist_ok=True)
            return folder / file

        return make


def experiment(file: str) -> Make:
    """An experiment's folder with both of its files."""

    def make(folder: Path) -> Path:
        for name in ("params.yaml", "rows.yaml"):
            shutil.copyfile(ROOT / "experiments/smoke" / name, folder / name)
        return folder / file

    return make


def open_and_resolve(path: Path) -> object:
    found = open_experiment(path.parent)
    found.check_rows({})
    return found.config("", {})


def archive(suffix: str) -> Make:
    def write(path: Path) -> None:
        if suffix == "zip":
            with zipfile.ZipFile(path, "w") as zipped:
                zipped.writestr("a/b.txt", b"some text" * 40)
            return
        with tarfile.open(path, f"w:{suffix.partition('.')[2]}") as tar:
            member = tarfile.TarInfo("a/b.txt")
            member.size = 360
            tar.addfile(member, io.BytesIO(b"some text" * 40))

    return made(f"some.{suffix}", write)


def unpacked(path: Path) -> dict[str, bytes]:
    """What an archive holds; the folder it was unpacked to goes again."""
    to = path.parent.parent / "unpacked"
    try:
        extract(path, to)
        return {one.relative_to(to).as_posix(): one.read_bytes() for one in to.rglob("*") if one.is_file()}
    finally:
        shutil.rmtree(to, ignore_errors=True)


def picture(suffix: str, **options: Any) -> Kind:
    pixels = Image.fromarray(RANDOM.integers(0, 256, (24, 20, 3), dtype=np.uint8))

    def read(path: Path) -> np.ndarray:
        images = FileImages(path, max_pixels=10**6, note=lambda line: None)
        return np.asarray(images._picture(0, 1)[0])

    checked = {"same": np.ndarray.tobytes} if suffix == "png" else {}
    make = made(f"one.{suffix}", lambda path: pixels.save(path, **options))
    return Kind(
        f"picture ({suffix})", make, read, "bytes" if suffix in ("png", "jpg") else "lines", **checked, turns=16
    )


def weights(state: Mapping[str, torch.Tensor]) -> bytes:
    return b"".join(state[name].numpy().tobytes() for name in sorted(state))


def checkpoint(folder: Path) -> Path:
    state = {"step": 3, "task": {"w": torch.arange(40.0)}, "history": {"loss": [[1, 0.25]]}}
    made_one = Checkpoint(folder, "a" * 64)
    made_one.save(state)
    return made_one.path


def resumed(path: Path) -> object:
    found = Checkpoint(path.parent, "a" * 64)
    check_regular(found)
    return found.load()


def maps(kind: Any) -> Make:
    def write(path: Path) -> None:
        shares = np.full((2, 3, 4, 4), 1 / 16, np.float32)
        arrays: dict[str, Any] = {"aggregated": shares[:, 0], "heads": shares}
        if kind is TeacherMaps:
            arrays |= {"images": np.zeros((2, 8, 8, 3), np.uint8), "names": np.array(["a", "b"])}
            arrays |= {"classes": np.array(["x", "y"]), "indices": np.arange(2), "featured": np.ones(2, bool)}
        else:
            arrays["kl"] = np.zeros(2, np.float32)
        kind(**arrays).write(path)

    return made("maps.npz", write)


def arrays_of(found: Any) -> bytes:
    return b"".join(getattr(found, name).tobytes() for name in found.ARRAYS)


def listing(folder: Path) -> Path:
    path = folder / f"files/md5/99/{LAST[2:]}.dir"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps([{"md5": "a" * 32, "relpath": "a/b.txt"}, {"md5": "b" * 32, "relpath": "c"}]))
    return path


def cached(path: Path) -> object:
    cache = Cache((path.parents[3],))
    if cache.find(f"{LAST}.dir") is None:
        raise ValueError(f"{path} is no file of the cache")
    return cache.listing(f"{LAST}.dir")


LINEAGE = {
    "code.json": {"commit": "c" * 40, "dirty": False, "patch": "none"},
    "command.json": {"argv": ["attndistill", "prepare"], "folder": ".", "environment": {"OMP_NUM_THREADS": "1"}},
    "config.json": {"seeds": [0], "views": {"seed": 1}},
    "environment.json": {"digest": "d", "python": "3.11", "platform": "p", "processor": "x", "cpu_count": 2},
    "inputs.json": {"inputs": {"a": {"listed": None, "workspace": "m"}}, "inputs_verified": "yes", "accounts": {}},
}  # fmt: skip
RUN = {
    "id": "1", "command": "prepare", "name": "prepare", "experiment": "x", "config": {}, "argv": [], "inputs": [],
    "root": "/r", "own_uri": "u", "tracking_uri": "u", "started_ms": 1, "pid": 1, "process_started": "", "host": "h",
    "user": "u",
}  # fmt: skip
EVENTS = "".join(
    json.dumps(event) + "\n"
    for event in (
        {"kind": "metrics", "time": 1, "step": 1, "values": {"loss": 0.5}},
        {"kind": "tag", "time": 1, "key": "a", "value": "b"},
        {"kind": "close", "time": 2, "status": "FINISHED", "error": ""},
    )
)


LOCK = """schema: '2.0'
stages:
  prepare:
    cmd: python -m attndistill prepare
    deps:
    - {path: code.py, hash: md5, md5: 00000000000000000000000000000000, size: 3}
    params:
      params.yaml:
        data: {set: {name: digits, size: 32}}
    outs:
    - path: outputs/data
      hash: md5
      md5: 5bbf5a52328e7439ae6e719dfe712200.dir
      size: 4
      nfiles: 2
"""


def lineage(file: str) -> Make:
    def make(folder: Path) -> Path:
        for name, value in LINEAGE.items():
            (folder / name).write_text(json.dumps(value))
        return folder / file

    return make


def photos(folder: Path) -> Path:
    for number in range(8):
        Image.fromarray(RANDOM.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    path = folder / "list.txt"
    path.write_text("".join(f"{number}.png\n" for number in range(8)))
    return path


def journal(folder: Path) -> Path:
    import optuna

    path = folder / "mine.journal"
    optuna.create_study(storage=Place(str(path), folder / "artifacts").open(), study_name="mine")
    return path


def database(folder: Path) -> Path:
    import optuna

    path = folder / "studies.db"
    optuna.create_study(storage=Place(f"sqlite:///{path}", folder / "artifacts").open(), study_name="mine")
    return path


def hugging_face(folder: Path) -> Path:
    """A ViT under transformers' names."""
    names = {
        r"^cls_token": "embeddings.cls_token",
        r"^pos_embed": "embeddings.position_embeddings",
        r"^patch_embed\.proj": "embeddings.patch_embeddings.projection",
        r"^norm\.": "layernorm.",
        r"^blocks\.(\d+)": r"encoder.layer.\1",
        r"attn\.proj": "attention.output.dense",
        r"\.norm1": ".layernorm_before",
        r"\.norm2": ".layernorm_after",
        r"mlp\.fc1": "intermediate.dense",
        r"mlp\.fc2": "output.dense",
    }
    state = {}
    for given, tensor in build_vit(16, 0, **VIT).state_dict().items():
        name = given
        for ours, theirs in names.items():
            name = re.sub(ours, theirs, name)
        if "attn.qkv" in name:
            for part, values in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                state[name.replace("attn.qkv", f"attention.attention.{part}")] = values.contiguous()
        else:
            state[name] = tensor.contiguous()
    save_file(state, folder / "model.safetensors")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "gelu"}
    (folder / "config.json").write_text(json.dumps(sizes))
    return folder / "config.json"


def kinds(goods: Goods) -> list[Kind]:
    """All of them, in the order of the table in docs/reliability.md."""

    def vit() -> dict[str, torch.Tensor]:
        return build_vit(16, 0, **VIT | {"embed_dim": 64, "num_heads": 1}).state_dict()

    known = open_experiment(ROOT)
    names = [f"train/{kind}/{kind}_{number}.JPEG" for kind in ("ant", "bee") for number in range(2)]
    verified = partial(Kind, read=lambda path: whole_data(path.parent), form="bytes", same=lambda found: found)

    def in_the_old_format(path: Path) -> None:
        torch.save(vit(), path, _use_new_zipfile_serialization=False)

    def stored(path: Path) -> bytes:
        check_weights(path.parent)
        return weights(load_model(path.parent)[0].state_dict())

    def teacher(path: Path) -> bytes:
        return weights(load_teacher(path, Wanted()).model.state_dict())

    def result(kind: Any, file: str) -> Kind:
        return Kind(file.partition("/")[2], copied(Path(file).name, file), kind.read, "json")

    return [
        Kind("params.yaml", experiment("params.yaml"), open_and_resolve, "yaml", strict=True, fine=("nothing",)),
        Kind("rows.yaml", experiment("rows.yaml"), open_and_resolve, "yaml", strict=True),
        Kind("study file", copied("mine.yaml", "search/default.yaml"), lambda path: read_search(path, known, {}),
             "yaml", strict=True),
        Kind("dvc.lock", made("dvc.lock", lambda path: path.write_text(LOCK)), lock_in, "yaml", fine=("nothing",)),
        Kind("dvc.lock, of the lineage", made("dvc.lock", lambda path: path.write_text(LOCK)),
             lambda path: listed_outs(path.parent, "x"), "lines", lenient=True),
        Kind("attndistill.lock", text("attndistill.lock", "version: 1\ncode: {probe: x}\n"),
             lambda path: stale_lock(replace(known, folder=path.parent), STAGES["probe"]),
             "yaml", fine=("nothing",)),
        Kind("study outcome", copied("default.json", "search/found/default.json"), read_outcome, "json"),
        result(ProbeFile, "results/probes/attndistill.json"),
        result(AttentionFile, "results/attention/attndistill.json"),
        result(TrainingFile, "results/training/attndistill.json"),
        result(TableFile, "results/report/table.json"),
        result(MetricsFile, "results/metrics.json"),
        Kind("results, compared by rebuild", copied("m.json", "results/metrics.json"), _numbers, "json", lenient=True),
        Kind("maps.npz of a teacher", maps(TeacherMaps), TeacherMaps.read, "bytes", arrays_of, turns=24),
        Kind("maps.npz of a student", maps(StudentMaps), StudentMaps.read, "bytes", arrays_of, turns=24),
        Kind("log_attention.npy", goods.part("attention", "log_attention.npy"),
             lambda path: _check_teacher_maps(path.parent, path.parent / "data"), "bytes"),
        Kind("identity.json", text("identity.json", {"teacher": "t", "data": "d", "views": "v"}), read_json, "json",
             lenient=True),
        verified("data: manifest.json", goods.part("arrays", "manifest.json"), form="json"),
        *(verified(f"data: {file}", goods.part("arrays", file))
          for file in ("train-images.npy", "train-labels.npy", "train-names.txt", "train-validation.npy")),
        *(verified(f"data: {file}", goods.part("shards", file))
          for file in ("train-index.npy", "train-shard-00000.bin")),
        Kind("targets: manifest.json", goods.part("targets", "manifest.json"), lambda path: whole_targets(path.parent),
             "json"),
        *(Kind(f"targets: {file}", goods.part("targets", file), lambda path: whole_targets(path.parent), "bytes")
          for file in ("cls_token.npy", "log_attention.npy")),
        Kind("resume checkpoint", checkpoint, resumed, "bytes",
             state_digest, turns=40),
        Kind("model.json", goods.part("model", "model.json"), stored, "json", lambda found: found),
        Kind("model.safetensors", goods.part("model", "model.safetensors"), stored, "bytes", lambda found: found),
        Kind("teacher: torch file", made("dino.pth", lambda path: torch.save(vit(), path)), teacher, "bytes",
             lambda found: found, turns=16),
        Kind("teacher: torch's old format", made("dino.pth", in_the_old_format), teacher, "bytes", turns=16),
        Kind("teacher: safetensors", made("dino.safetensors", lambda path: save_file(vit(), path)), teacher,
             "bytes", turns=16),
        Kind("teacher: Hugging Face's config.json", hugging_face, lambda path: teacher(path.parent), "json", turns=6),
        picture("jpg"), picture("png"), picture("bmp"), picture("tif"), picture("ppm"), picture("webp"),
        Kind("IDX, gzipped", made("a.gz", lambda path: path.write_bytes(gzip.compress(NUMBERS))),
             lambda path: read_idx(path, 1), "bytes", np.ndarray.tobytes, turns=24),
        Kind("IDX", made("a", lambda path: path.write_bytes(NUMBERS)),
             lambda path: read_idx(path, 1), "bytes"),
        *(Kind(f"archive ({suffix})", archive(suffix), unpacked, "lines", turns=16)
          for suffix in ("tar", "tar.gz", "tar.xz", "zip")),
        Kind("class list", text("classes.txt", "ant\nbee\n"), read_class_list, "lines"),
        Kind("label list", text("labels.txt", "ant_0.JPEG\nbee_1.JPEG\n"),
             lambda path: listed_subset(names, path, LeftOut(frozenset(), frozenset())), "lines"),
        Kind("list of photos", photos, lambda path: unlabelled_photos(None, path), "lines"),
        Kind("journal of a run", text("journal.jsonl", EVENTS), lambda path: Spool(path.parent).events(0), "lines",
             lenient=True),
        Kind("run.json of a run", text("run.json", RUN), lambda path: Spool(path.parent).description(), "json"),
        Kind("progress.json of a run", text("progress.json", {"offset": 0, "run_id": None, "lineage": False}),
             lambda path: Spool(path.parent).reached(), "json", lenient=True),
        Kind("owner of a folder", text("owner", {"pid": 1, "host": "h", "since": "now"}), _read_owner, "json",
             lenient=True),
        *(Kind(f"lineage: {file}", lineage(file), lambda path: lineage_in(path.parent, "run"), "json",
               lenient=file == "inputs.json") for file in LINEAGE),
        *(Kind(f"lineage, as it is sent: {file}", lineage(file), lambda path: tags_of(path.parent), "json",
               lenient=True, turns=4) for file in ("code.json", "environment.json", "inputs.json")),
        Kind("a folder's listing in DVC's cache", listing, cached, "json", fine=("a list",)),
        Kind("a study's journal", journal, lambda path: Place(str(path), path.parent / "artifacts").open(), "lines",
             lenient=True, fine=("a link to nothing",)),
        Kind("a study's database", database, lambda path: Place(f"sqlite:///{path}", path.parent / "artifacts").open(),
             "lines", turns=3, fine=("nothing", "a link to nothing")),
    ]  # fmt: skip


GOODS = Goods()
KINDS = {kind.name: kind for kind in kinds(GOODS)}
