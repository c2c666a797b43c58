"""The values by which the node recognizes an image as a result of this software.

Results are written with them, and screening searches for them. An older node must
recognize the results of a newer one, so the values never change.
"""

MODEL_NAME = "fracture-node"
"""Manufacturer's Model Name (0008,1090) of every result. It has no capital letters."""

OVERLAY_FLAVOR, NOTICE_FLAVOR = "AI_OVERLAY", "AI_NOTICE"
"""Value 4 of Image Type (0008,0008) of the two captures."""

FLAVORS = frozenset({OVERLAY_FLAVOR, NOTICE_FLAVOR})
