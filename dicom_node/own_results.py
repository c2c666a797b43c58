"""The values by which the node recognizes an image as a result of this software.

The node writes these values into its results, and screening compares received captures
with them. An older node must recognize the results of a newer one, so the values never
change.
"""

MODEL_NAME = "fracture-node"
"""Manufacturer's Model Name (0008,1090) of every DICOM result.

It has no capital letters, because screening converts model names to lower case before
it compares them.
"""

OVERLAY_FLAVOR, NOTICE_FLAVOR = "AI_OVERLAY", "AI_NOTICE"
EXAMINATION_FLAVOR = "AI_EXAMINATION"
"""Value 4 of Image Type (0008,0008) in a page of an examination summary.

In an image with the finding, value 4 is OVERLAY_FLAVOR. In a notice, it is
NOTICE_FLAVOR.
"""

FLAVORS = frozenset({OVERLAY_FLAVOR, NOTICE_FLAVOR, EXAMINATION_FLAVOR})
