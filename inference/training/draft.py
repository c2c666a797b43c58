"""The model card that the training starts with, before there are weights."""

from dataclasses import replace

from models.card import FRACTURE, ModelCard

LIMBS = (
    *("ACJOINT", "ANKLE", "ARM", "CALCANEUS", "CLAVICLE", "ELBOW", "EXTREMITY"),
    *("FEMUR", "FIBULA", "FINGER"),
    *("FOOT", "FOREARM", "HAND", "HIP", "HUMERUS", "KNEE", "LEG", "LIMB", "PATELLA"),
    *(
        "RADIUS",
        "SCAPULA",
        "SHOULDER",
        "THIGH",
        "THUMB",
        "TIBIA",
        "TOE",
        "ULNA",
        "WRIST",
    ),
    *("LOWEREXTREMITY", "UPPEREXTREMITY"),
)
"""Values of Body Part Examined for the limbs, which FracAtlas covers: Defined Terms
(PS3.16 Annex L), and other words that equipment uses."""

DRAFT = ModelCard(
    name="untrained",
    version="0",
    architecture="resnet16_fine",
    classes=(FRACTURE, "No Fracture"),
    input_size=224,
    resize="letterbox",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    temperature=1.0,
    doubtful=0.5,
    definite=0.8,
    body_parts=LIMBS,
    sha256="",
    phantom_logits={},
    pooling="log_sum_exp",
    scales=(1, 2),
    exposure="percentiles",
    crop="exposed_area",
    min_age_years=18,  # FracAtlas states no ages; see models/README.md
)

WHOLE_IMAGE = replace(DRAFT, scales=(1,))
"""DRAFT with scale 1 only, for the first part of each generation of a training."""

CELL = 16
"""Side of a cell of the network's map, in pixels of the canvas."""
