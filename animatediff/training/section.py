"""The base of a config's tables, and the numbers that they hold."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Side = Annotated[int, Field(ge=8, multiple_of=8)]


class Section(BaseModel):
    """One table of a training config: it rejects unknown keys, NaN and changes."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)
