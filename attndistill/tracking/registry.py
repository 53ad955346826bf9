"""Exported models in MLflow's registry: a version each, run by a copy of `served_model.py`, no pickle.

A version belongs to the run that made the weights, where one is recorded. Models that are registered again with the
same bytes keep their version. `models:/EXPERIMENT@best` is the best row by the figure that its description states.
"""

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attndistill.core.secrets import hidden
from attndistill.core.words import shown
from attndistill.tracking.address import tracking_uri
from attndistill.tracking.inputs import md5_of
from attndistill.tracking.store import Store, if_there

BEST, TEACHER = "best", "teacher"
_OWNER, _WEIGHTS = "attndistill.experiment", "attndistill.weights"
_CODE = Path(__file__).with_name("served_model.py")


@dataclass(frozen=True)
class Exported:
    """A model to register.

    Attributes:
        name: of the row, or of the pre-trained model.
        folder: that timm opens.
        width: of its features.
        picture: an image file's bytes, the input example.
        weights: SHA-256 of the stored model.
        made: folder of the experiment's outputs with the weights of every seed.
        figures: name -> mean over seeds.
        card: what is said of it.
    """

    name: str
    folder: Path
    width: int
    picture: bytes
    weights: str
    made: Path
    figures: Mapping[str, float]
    card: str


class ModelRegistry:
    """The registry of a project's tracking store. Raises ValueError where the store cannot be reached."""

    def __init__(self, project: Path) -> None:
        self.uri, self.project = tracking_uri(project), project
        with self._reached():
            self._store = Store(self.uri)
            self._client = self._store.client

    def check_name(self, experiment: str) -> None:
        """Raise ValueError where the experiment's name is taken by a model that is not its own."""
        with self._reached():
            found = if_there(self._client.get_registered_model, experiment)
        if found is not None and found.tags.get(_OWNER) != experiment:
            raise ValueError(
                f"the name {shown(experiment)} is taken in the registry of {hidden(self.uri)}: rename that model, or "
                "the experiment's folder"
            )

    def register(self, experiment: str, models: Sequence[Exported], best: str, why: str) -> dict[str, int]:
        """Log the models and register each as a version of the experiment's name. Returns name -> version.

        Args:
            experiment: the registered name; see `check_name`.
            models: exported.
            best: the model that gets the alias `best`; the teacher, if it is there, gets `teacher`.
            why: the figure by which it is the best, for the description.
        """
        self.check_name(experiment)
        with self._reached():
            if if_there(self._client.get_registered_model, experiment) is None:
                self._client.create_registered_model(experiment, tags={_OWNER: experiment})
            versions = {model.name: self._version(experiment, model) for model in models}
            for alias, name in ((BEST, best), (TEACHER, TEACHER)):
                if name in versions:
                    self._client.set_registered_model_alias(experiment, alias, str(versions[name]))
            self._client.update_registered_model(experiment, description=f"Alias `{BEST}`: {best}, {why}.")
        return versions

    def _version(self, experiment: str, model: Exported) -> int:
        known = self._client.search_model_versions(f"name = '{experiment}'")
        same = [one for one in known if one.tags.get(_WEIGHTS) == model.weights and one.tags.get("row") == model.name]
        if same:
            return int(same[0].version)
        run = self._run_that_made(model.made)
        place = run.info.experiment_id if run else self._store.experiment(experiment)
        tags = {"row": model.name, _WEIGHTS: model.weights}
        with tempfile.TemporaryDirectory(prefix="attndistill-model-") as scratch:
            folder = Path(scratch) / "model"
            save(folder, model)
            run_id = run.info.run_id if run else None
            logged = self._client.create_logged_model(place, model.name, run_id, tags=tags, model_type="features")
            self._client.log_model_artifacts(logged.model_id, str(folder))
            self._client.finalize_logged_model(logged.model_id, "READY")
        with self._named():
            made = self._client.create_model_version(
                experiment, logged.model_uri, run_id, tags=tags, description=model.card, model_id=logged.model_id
            )
        for name, value in model.figures.items():
            self._client.set_model_version_tag(experiment, made.version, name, f"{value:.6g}")
        return int(made.version)

    def _run_that_made(self, made: Path) -> Any:
        """The latest recorded run that made these weights."""
        root = self.project.resolve()
        path = os.path.relpath(made.resolve(), root)
        return self._store.found(f"output.{path}", md5_of(made.resolve(), root))

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Name the store in the environment: MLflow asks that one where a logged model's files are, and no client's."""
        before = os.environ.get("MLFLOW_TRACKING_URI")
        os.environ["MLFLOW_TRACKING_URI"] = self.uri
        try:
            yield
        finally:
            if before is None:
                del os.environ["MLFLOW_TRACKING_URI"]
            else:
                os.environ["MLFLOW_TRACKING_URI"] = before

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as error:
            said = shown(hidden(" ".join(str(error).split())), 300)
            raise ValueError(f"the tracking store {hidden(self.uri)} cannot be used: {said}") from None


def save(folder: Path, model: Exported) -> None:
    """Write an MLflow model (a folder that `mlflow models serve` runs), with signature and input example."""
    import mlflow.pyfunc
    import numpy as np
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    features = TensorSpec(np.dtype("float32"), (-1, model.width), "features")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(_CODE),
            artifacts={"model": str(model.folder)},
            signature=ModelSignature(Schema([ColSpec("binary", "image")]), Schema([features])),
            input_example=pd.DataFrame({"image": [model.picture]}),
            pip_requirements=[
                f"{name}=={_version(name)}" for name in ("mlflow", "torch", "timm", "safetensors", "pillow")
            ],
        )


def _version(distribution: str) -> str:
    from importlib.metadata import version

    return version(distribution).partition("+")[0]  # a build's own mark is in no index
