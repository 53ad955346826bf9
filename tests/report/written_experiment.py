"""An experiment in the formats of the pipeline: 4 models, 5 seeds, 6 digits, written without training anything."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from attndistill.config.rows import RowsFile
from attndistill.report.build import build_report
from attndistill.results import Measurement

SEEDS = (0, 1, 2, 3, 4)
LABELS = {
    "teacher": "Teacher (MAE)",
    "scratch": "Student from scratch (MAE)",
    "projector_alignment": "Projector alignment only",
    "attndistill": "AttnDistill",
}
KNN = {"teacher": 89.2, "scratch": 84.1, "projector_alignment": 88.4, "attndistill": 89.9}
LOGISTIC = {"teacher": 95.3, "scratch": 90.3, "projector_alignment": 92.2, "attndistill": 93.6}
KL = {"teacher": 0.0, "scratch": 0.412, "projector_alignment": 0.287, "attndistill": 0.061}
GRIDS = {"teacher": (8, 4), "scratch": (4, 3), "projector_alignment": (4, 3), "attndistill": (4, 3)}


def measured(protocol, values, seeds):
    return Measurement.of([round(float(value), 4) for value in values], list(seeds), protocol).model_dump(mode="json")


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def probe_file(model: str, random) -> dict:
    seeds = SEEDS[:1] if model == "teacher" else SEEDS

    def around(mean, spread):
        return np.minimum(100.0, mean + spread * random.standard_normal(len(seeds)))

    sweep = {str(k): measured("knn/dino-v1", around(KNN[model] - 0.02 * k, 0.5), seeds) for k in (10, 20, 100)}
    knn = {
        "top1": measured("knn/dino-v1", around(KNN[model], 0.5), seeds),
        "top5": measured("knn/dino-v1", around(97.5, 0.2), seeds),
        "sweep": sweep,
        "selected": {"k": [20] * len(seeds)},
    }
    logistic = {
        "top1": measured("logistic/standardised-lbfgs-v2", around(LOGISTIC[model], 0.4), seeds),
        "top5": measured("logistic/standardised-lbfgs-v2", around(99.2, 0.1), seeds),
        "sweep": {},
        "selected": {"C": [1.0] * len(seeds)},
    }
    return {
        "model": model,
        "parameters": 203_328 if model == "teacher" else 92_880,
        "feature": "cls_token before the projector",
        "class_list_sha256": "ab" * 32,
        "data_digest": "cd" * 32,
        "probes": {"knn": knn, "logistic": logistic},
    }


def blurred(strokes, grid: int, sharpness: float, offset: float, random):
    small = np.asarray(Image.fromarray(strokes.astype(np.uint8)).resize((grid, grid), Image.Resampling.BOX), float)
    shifted = np.roll(small, (round(offset), 0), axis=(0, 1))
    weights = np.exp(sharpness * shifted / 255 + 0.35 * random.standard_normal((grid, grid)))
    return (weights / weights.sum()).astype(np.float32)


def attention_arrays(model: str, count: int = 6) -> dict:
    digits = load_digits()
    images = np.stack(
        [
            np.asarray(
                Image.fromarray((digits.images[i] * 15.9).astype(np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)
            )
            for i in range(count)
        ]
    )

    def maps(which):
        random = np.random.default_rng(abs(hash_of(which)))
        grid, heads = GRIDS[which]
        sharpness = 3.5 if which in ("teacher", "attndistill") else 1.2
        per_head = np.stack(
            [np.stack([blurred(image, grid, sharpness, head % 2, random) for head in range(heads)]) for image in images]
        )
        agreed = np.exp(np.log(per_head).mean(axis=1))
        return agreed / agreed.sum(axis=(1, 2), keepdims=True), per_head

    aggregated, heads = maps(model)
    if model != "teacher":
        return {"aggregated": aggregated, "heads": heads, "kl": np.full(count, KL[model], np.float32)}
    return {
        "images": np.repeat(images[..., None], 3, axis=-1),
        "names": np.array([f"test-{i:05d}" for i in range(count)]),
        "classes": np.array([str(digits.target[i]) for i in range(count)]),
        "indices": np.arange(count),
        "featured": np.ones(count, dtype=bool),
        "aggregated": aggregated,
        "heads": heads,
    }


def hash_of(name: str) -> int:
    return sum(ord(letter) * (index + 1) for index, letter in enumerate(name))


def training_file(model: str, random) -> dict:
    curves = {}
    for seed in SEEDS[:1] if model == "teacher" else SEEDS:
        epochs = np.arange(1, 41)
        alignment = 1.4 * np.exp(-epochs / 11) + 0.25 + 0.04 * random.random(len(epochs))
        terms = {"loss": alignment}
        if model == "attndistill":
            attention = 2.0 * np.exp(-epochs / 9) + 0.1 + 0.04 * random.random(len(epochs))
            terms = {"loss": alignment + 0.1 * attention, "alignment": alignment, "attention": attention}
        terms["learning_rate"] = 1e-3 * np.ones(len(epochs))
        curves[str(seed)] = {
            name: [[int(epoch), float(value)] for epoch, value in zip(epochs, values, strict=True)]
            for name, values in terms.items()
        }
    kind = "pretrain" if model in ("teacher", "scratch") else "distill"
    return {"name": model, "kind": kind, "unit": "epoch", "curves": curves, "summary": {"loss": 0.3}}


def photos(count: int) -> np.ndarray:
    grey = (load_digits().images[:count] * 15.9).astype(np.uint8)
    return np.repeat(np.repeat(np.repeat(grey, 4, axis=1), 4, axis=2)[..., None], 3, axis=-1)


def exhibits_file(model: str) -> dict:
    """Four classes; two photos asked, each with two neighbours; one mistake."""

    def photo(number, **more):
        return {"picture": number, "name": f"photo-{number}", "kind": str(number % 4), **more}

    asked = [photo(n, nearest=[photo(n + 4, cosine=0.91), photo(n + 5, cosine=0.8)]) for n in (0, 1)]
    counts = [[9, 1, 0, 0], [0, 10, 0, 0], [0, 0, 7, 3], [0, 0, 0, 10]]
    size = {"parameters": 203_328, "flops": 30_000_000, "weight_bytes": 813_312}
    if model != "teacher":
        size = {"parameters": 92_880, "flops": 6_000_000, "weight_bytes": 371_520}
    confused = {"protocol": "knn/dino-v1, k = 20", "classes": ["0", "1", "2", "3"], "counts": counts}
    confused["pairs"] = [["2", "3", 3], ["0", "1", 1]]
    mistakes = [photo(2, taken_for="3", share=0.75)]
    return {"model": model, "seed": 0, **size, "confusion": confused, "mistakes": mistakes, "neighbours": asked}


def paper(top1, top5):
    return {"top1": top1, "top5": top5}


class Experiment:
    """Paths and rows of a written experiment."""

    def __init__(self, root: Path) -> None:
        self.results, self.outputs, self.destination = root / "results", root / "outputs", root / "outputs" / "report"
        self.pretrained = {name: LABELS[name] for name in ("teacher", "scratch")}
        self.models = {}
        self.rows = {
            name: {"label": label, "group": "Distilled from the teacher", "set": {}}
            for name, label in LABELS.items()
            if name not in self.pretrained
        }
        self.pictures, self.claims = None, []
        self.description = {"Commit": "0123abc", "Data": "digits, 32×32", "Experiment": "digits"}

    @property
    def rows_file(self) -> RowsFile:
        told = {"models": self.models, "rows": self.rows, "pictures": self.pictures, "claims": self.claims}
        return RowsFile.model_validate(told)

    def build(self, **changes):
        told = {"title": "Digits", "rows": self.rows_file, "pretrained": self.pretrained} | changes
        told = {"description": self.description, "model_folder": lambda name: self.outputs / "weights" / name} | told
        return build_report(self.results, self.outputs, self.destination, **told)

    @property
    def page(self) -> str:
        return (self.destination / "index.html").read_text()

    def write(self) -> None:
        random = np.random.default_rng(0)
        for model in LABELS:
            write_json(self.results / "probes" / f"{model}.json", probe_file(model, random))
            attention = {"model": model, "class_list_sha256": "ab" * 32, "data_digest": "cd" * 32}
            if model != "teacher":
                values = KL[model] + 0.02 * random.standard_normal(len(SEEDS))
                attention["kl_to_teacher"] = measured("kl/aag-T4-v1", values, SEEDS)
            write_json(self.results / "attention" / f"{model}.json", attention)
            maps = self.outputs / "attention" / model / "maps.npz"
            maps.parent.mkdir(parents=True)
            np.savez(maps, **attention_arrays(model))
            write_json(self.outputs / "exhibits" / model / "exhibits.json", exhibits_file(model))
            np.savez(self.outputs / "exhibits" / model / "pictures.npz", images=photos(8))

    def write_curves(self) -> None:
        """Training losses and pre-training probes: charts of them take longer to draw than all else."""
        random = np.random.default_rng(1)
        for model in LABELS:
            file = training_file(model, random)
            for curves in file["curves"].values() if model in ("teacher", "scratch") else ():
                top = {"teacher": 95.0, "scratch": 90.0}[model]
                values = [top - 30 * np.exp(-epoch / 12) + 0.5 * random.standard_normal() for epoch in range(5, 51, 5)]
                curves["probe_top1"] = [[epoch, value] for epoch, value in zip(range(5, 51, 5), values, strict=True)]
            write_json(self.results / "training" / f"{model}.json", file)

    def edit(self, path: str, change) -> None:
        """Change one JSON file of the results in place."""
        value = json.loads((self.results / path).read_text())
        change(value)
        write_json(self.results / path, value)


class Ablation(Experiment):
    """The form of Table 10: groups, the paper's figures beside ours, claims, more rows than one chart can show."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.models = {"teacher": {"paper": paper(79.4, 93.6)}, "scratch": {"paper": paper(63.7, 86.2)}}
        self.rows["attndistill"]["paper"] = paper(79.3, None)
        self.rows["projector_alignment"]["paper"] = paper(77.8, 93.3)
        self.pictures = list(self.rows)
        self.lambdas = {f"lambda-{n}": value for n, value in enumerate((0.005, 0.1, 0.3, 5.0))}
        self.depths = {f"p{depth}": depth for depth in (1, 2, 4, 8)}
        for name, value in self.lambdas.items():
            told = {"group": "(e) lambda", "set": {"distill.lambda": value}, "paper": paper(79.3 - value, 94.1)}
            self.rows[name] = {"label": f"lambda {value:g}", **told}
        for name, depth in self.depths.items():
            told = {"group": "(d) Layers of P, probed after each", "paper": paper(77.0 + depth / 10, None), "set": {}}
            self.rows[name] = {"label": f"P of {depth}, probed after layer 0", **told}
        students = ["attndistill", "projector_alignment", "scratch"]
        self.claims = [
            {"claim": "P of 4 layers is best", "better": ["p4"] * 3, "worse": ["p1", "p2", "p8"], "judge": "every"},
            {"claim": "AttnDistill, on average", "better": students[:1] * 2, "worse": students[1:], "judge": "mean"},
            {
                "claim": "Features before P are no worse than after it",
                "better": ["attndistill", "p4"],
                "worse": ["projector_alignment", "p8"],
                "judge": "no_worse",
                "margin": 1.0,
            },
        ]

    def write(self) -> None:
        """P of 4 is far ahead of P of 8, and behind P of 1 and of 2."""
        super().write()
        random = np.random.default_rng(2)
        ahead = {"p1": 7.4, "p2": 7.6, "p4": 0.0, "p8": -13.5} | {name: float(n) for n, name in enumerate(self.lambdas)}
        for name, points in ahead.items():
            file = probe_file("projector_alignment", random)
            for probe, accuracy in {"knn": 75.0, "logistic": 80.0}.items():
                values = accuracy + points + 0.3 * random.standard_normal(len(SEEDS))
                file["probes"][probe]["top1"] = measured(file["probes"][probe]["top1"]["protocol"], values, SEEDS)
            feature = {"p8": "cls_token after projector layer 8"}.get(name, file["feature"])
            write_json(self.results / "probes" / f"{name}.json", file | {"model": name, "feature": feature})


LAMBDA = {"type": "float", "low": 0.001, "high": 10.0, "scale": "log"}
DEPTH = {"type": "choice", "choices": [1, 2, 4]}
POINTS = [(0.1, 4, 91.0), (0.01, 1, 90.0), (1.0, 2, 93.25), (5.0, 4, 88.5), (0.3, 2, None)]


def outcome(**changes) -> dict:
    trials = [
        {
            "number": number,
            "state": "complete" if value else "pruned",
            "settings": {"distill.lambda": weight, "distill.projector_depth": depth},
            "values": [value] if value else None,
            "epochs": None if value else 10,
            "given": number < 2,
        }
        for number, (weight, depth, value) in enumerate(POINTS)
    ]
    return {
        "study": "default",
        "experiment": "digits",
        "row": "attndistill",
        "search": {"distill.lambda": LAMBDA, "distill.projector_depth": DEPTH},
        "seeds": [0, 1],
        "objectives": ["logistic_top1"],
        "directions": ["maximize"],
        "surface": ["distill.lambda", "distill.projector_depth"],
        "sampler": {"name": "tpe", "seed": 0},
        "pruner": {"name": "median", "startup_trials": 5, "warmup_epochs": 0},
        "protocol": "logistic on the validation part of train (0.2 of it)",
        "configuration": "01234567",
        "overrides": {},
        "epochs": 40,
        "planned": len(trials),
        "state": "finished",
        "trials": trials,
        "best": [2],
        "importances": {"logistic_top1": {"distill.lambda": 0.8, "distill.projector_depth": 0.2}},
        "importances_by_seed": [
            {"logistic_top1": {"distill.lambda": share, "distill.projector_depth": 1 - share}} for share in (0.9, 0.5)
        ],
        "evaluator": "PED-ANOVA",
        **changes,
    }
