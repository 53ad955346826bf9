"""Bounds that many settings share."""

from typing import Annotated

from pydantic import Field

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
