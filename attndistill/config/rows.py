"""The rows file of an experiment: what each row runs, and what the report prints of it."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from attndistill.evaluations import evaluations


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Paper(_Strict):
    """A line of the paper's table, percent; None where it cannot be read."""

    top1: float | None
    top5: float | None


def _known_figure(key: str) -> str:
    """A figure's name, of a further data set with '@' and its name behind. Raises ValueError."""
    allowed = [one.key(figure) for one in evaluations().values() for figure in one.figures]
    if key.partition("@")[0] not in allowed:
        raise ValueError(f"{key!r}; allowed: {', '.join(allowed)}, each with @ and a data set's name behind it")
    return key


Percent = Annotated[float, Field(ge=0, le=100)]
# what the paper or the authors of a teacher print, figure -> percent; only what was read
Published = dict[Annotated[str, AfterValidator(_known_figure)], Percent]


class Model(_Strict):
    """What is printed of a pre-trained model; None keeps the report's own label."""

    label: str | None = Field(default=None, min_length=1)
    paper: Paper | None = None
    published: Published = {}


class Row(_Strict):
    """One line of an ablation: what it changes in the configuration, and how it is printed."""

    label: str = Field(min_length=1)
    group: str = ""
    paper: Paper | None = None
    published: Published = {}
    set: dict[str, Any]


class Claim(_Strict):
    """An ordering that is claimed: each of `better` is ahead of the row beside it in `worse`.

    Attributes:
        claim: as the report prints it.
        better, worse: names of rows, paired.
        judge: every (each pair must hold), mean (of the pairs, for claims about an average) or no_worse (each pair may
            be behind by the margin); report/judgement.py has the rules.
        margin: of no_worse, points of percent.
    """

    claim: str = Field(min_length=1)
    better: list[str] = Field(min_length=1)
    worse: list[str] = Field(min_length=1)
    judge: Literal["every", "mean", "no_worse"] = "every"
    margin: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _pairs(self) -> "Claim":
        if len(self.better) != len(self.worse):
            raise ValueError(f"{len(self.better)} better rows beside {len(self.worse)} worse ones; allowed: pairs")
        return self

    @model_validator(mode="after")
    def _margin(self) -> "Claim":
        if (self.margin is None) == (self.judge == "no_worse"):
            given = "no margin" if self.margin is None else f"a margin of {self.margin:g}"
            raise ValueError(f"judge {self.judge} with {given}; allowed: no_worse has a margin, the others have none")
        return self


class RowsFile(_Strict):
    """rows.yaml.

    Attributes:
        name: of the experiment; empty for the folder's.
        models: the pre-trained models by name, where something is to be said of them.
        rows: by name; names go into dotted keys and folders.
        pictures: rows whose attention and losses the report shows; None for all.
        claims: judged in the report.
    """

    name: Annotated[str, Field(pattern="^[A-Za-z0-9_-]*$")] = ""
    models: dict[str, Model] = {}
    rows: dict[str, Row] = Field(min_length=1)
    pictures: list[str] | None = None
    claims: list[Claim] = []
