"""The manifest of a prepared data set: the one model that `prepare` writes and every reader reads.

It holds no time and no path of this machine, so equal content gives equal files, byte for byte. A field that may be
empty is written only where it is not.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from attndistill.core.artifacts import digest_of, write_json
from attndistill.core.reading import read_model
from attndistill.data.sources import class_list_digest

FORMAT: Literal["attndistill-data/1"] = "attndistill-data/1"
_FILE = "manifest.json"

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Names = Annotated[list[str], Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class SplitEntry(_Part):
    """One split; `image_shape` is an array's, `shards` and `bytes` are of original files."""

    count: Annotated[int, Field(ge=1)]
    per_class: dict[str, Count]
    labels_sha256: Digest
    names_sha256: Digest
    images_sha256: Digest
    image_shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=3, max_length=3)] | None = None
    shards: Annotated[int, Field(ge=1)] | None = None
    bytes: Annotated[int, Field(ge=1)] | None = None


class Skipped(_Part):
    """An image that could not be used, and why."""

    split: str
    name: str
    reason: str


class BadImages(_Part):
    """What was done with images that cannot be used."""

    policy: Literal["error", "skip"]
    count: Count
    skipped: list[Skipped]


class OtherFormat(_Part):
    """An image whose content is of another format than its name says."""

    split: str
    name: str
    format: str


class LeftAside(_Part):
    """Hidden files and the litter of operating systems: how many, and the first names."""

    count: Count
    names: list[str]


class Validation(_Part):
    """The part of train on which hyper-parameters are chosen."""

    fraction: Annotated[float, Field(gt=0, lt=1)]
    seed: Count
    count: Annotated[int, Field(ge=1)]


class Manifest(_Part):
    """See the module."""

    format: Literal["attndistill-data/1"]
    dataset: str
    options: dict[str, JsonValue]
    container: Literal["arrays", "shards"]
    class_names: Names
    class_list_sha256: Digest
    labelled: Literal[False] | None = None
    left_out_classes: Names | None = None
    left_aside: LeftAside | None = None
    other_formats: Annotated[list[OtherFormat], Field(min_length=1)] | None = None
    splits: dict[str, SplitEntry]
    bad_images: BadImages
    validation: Validation
    digest: Digest

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        kind = {"arrays": {"image_shape"}, "shards": {"shards", "bytes"}}[self.container]
        for name, entry in self.splits.items():
            given = {field for field in ("image_shape", "shards", "bytes") if getattr(entry, field) is not None}
            if given != kind:
                raise ValueError(f"splits.{name} has {sorted(given)}, a container of {self.container} {sorted(kind)}")
            if list(entry.per_class) != self.class_names and sorted(entry.per_class) != sorted(self.class_names):
                raise ValueError(f"splits.{name}.per_class has other classes than class_names")
            if sum(entry.per_class.values()) != entry.count:
                raise ValueError(f"splits.{name}.count is not the sum of per_class")
        if "train" not in self.splits:
            raise ValueError("splits has no 'train'")
        if self.bad_images.count != len(self.bad_images.skipped):
            raise ValueError("bad_images.count is not the number of bad_images.skipped")
        if self.class_list_sha256 != class_list_digest(self.class_names):
            raise ValueError("class_list_sha256 is not of class_names")
        if self.digest != content_digest(self.class_names, self.model_dump(exclude_none=True)["splits"]):
            raise ValueError("digest is not of class_names and splits")
        return self

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """Of a prepared data set. Raises ValueError in one line that names the file and the field."""
        return read_model(directory / _FILE, cls)

    def write(self, directory: Path) -> dict[str, Any]:
        """Write it. Returns what was written."""
        value = self.model_dump(mode="json", exclude_none=True)
        write_json(directory / _FILE, value)
        return value


def content_digest(class_names: list[str], splits: dict[str, Any]) -> str:
    """The digest of a data set's content: its classes and its splits, and not how it was made."""
    return digest_of([class_names, splits])


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a prepared data set, as a mapping. Raises ValueError as `Manifest.read`."""
    return Manifest.read(directory).model_dump(mode="json", exclude_none=True)
