"""Response schemas of /predict, as described in OpenAPI."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from inference.finding import Point

_EXAMPLE: JsonDict = {
    "prediction": "Fracture",
    "confidence": "97.0%",
    "image_base64": "/9j/4AAQSkZJRg…",
    "probability": 0.9431,
    "operating_point": "definite",
    "arrow": {"tip": [412.5, 633.0], "tail": [520.0, 540.5]},
    "findings": [
        {
            "arrow": {"tip": [412.5, 633.0], "tail": [520.0, 540.5]},
            "score": 0.9431,
            "operating_point": "definite",
        }
    ],
    "model": {"name": "fracture-resnet18", "version": "0.4.0"},
}


class ArrowResponse(BaseModel):
    """An arrow to the suspected fracture.

    Each end is a [column, row] in pixels of the image, after its EXIF rotation.
    """

    tip: Point = Field(description="The end with the head, at a peak of the heatmap.")
    tail: Point = Field(description="The other end.")


class FindingResponse(BaseModel):
    """A location where the model suspects a fracture."""

    arrow: ArrowResponse
    score: float = Field(
        ge=0,
        le=1,
        description="The probability of a fracture, considering only this location. "
        "The probability of the image if the model card has no finding_threshold.",
    )
    operating_point: Literal["doubtful", "definite"] = Field(
        description="The operating point that the score reaches, at least doubtful."
    )


class ModelResponse(BaseModel):
    """The name and version of the model."""

    name: str
    version: str


class OriginalResponse(BaseModel):
    """The radiograph without annotations, to compare with the annotated image."""

    image_base64: str = Field(description="A JPEG, base64.")
    area: tuple[int, int] = Field(
        description="Size of the radiograph in the annotated image as [columns, rows], "
        "from the top left corner. The rest is the caption."
    )


class Prediction(BaseModel):
    """The finding for one radiograph. An AI result, not for diagnostic use."""

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE})

    prediction: Literal["Fracture", "No Fracture"] = Field(description="The finding.")
    confidence: str = Field(
        description="Distance of the probability from the reporting threshold: 50% "
        "at the threshold, 100% at certainty, linear in between, as text with one "
        "decimal. Never above 99.9%. If the threshold is 0.5, this is the "
        "probability of the finding."
    )
    image_base64: str = Field(
        description="The annotated radiograph with its caption: a JPEG, base64."
    )
    probability: float = Field(
        ge=0,
        le=1,
        description="Probability of a fracture, from 0 to 1, as calibrated; "
        "also for a negative finding.",
    )
    operating_point: Literal["none", "doubtful", "definite"] = Field(
        description="The highest operating point that the probability reaches: none "
        '("No Fracture"), doubtful or definite ("Fracture").'
    )
    arrow: ArrowResponse | None = Field(
        description="The arrow of the first finding. Each end is a [column, row] "
        "in pixels of the uploaded image from the top left corner. If the image has an "
        "EXIF orientation, it is rotated first. Null if there are no findings."
    )
    findings: list[FindingResponse] = Field(
        description="The suspected fractures, at most five. If there are several, "
        "the first one has the number 1 on the annotated radiograph, and so on. Empty "
        'if the prediction is "No Fracture", or if no peak of the heatmap has a '
        "sufficient score."
    )
    model: ModelResponse
    original: OriginalResponse | None = Field(
        default=None,
        description="The radiograph as the model saw it (image_base64), and its size "
        "in the annotated image as [columns, rows] from the top left corner (area). "
        "Omitted without ?original=true.",
    )
