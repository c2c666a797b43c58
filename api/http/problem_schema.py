"""The JSON response of a failure outside of /api/v1."""

from pydantic import BaseModel, Field


class Problem(BaseModel):
    """The reason why a request failed."""

    error: str = Field(description="A description of the error, for users.")
