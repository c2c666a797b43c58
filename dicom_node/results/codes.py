"""The codes in results. The docstrings name context groups and templates of PS3.16."""

from pydicom import Dataset
from pydicom.sr.coding import Code

from dicom_node.pixels import screening

SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
"""A code of CID 7202, Source Image Purposes of Reference."""

SEGMENTATION = Code("113076", "DCM", "Segmentation")
"""A code of CID 7203, Image Derivation."""

PROCESSING_EQUIPMENT = Code(*screening.PROCESSING_EQUIPMENT, "Processing Equipment")
"""A code of CID 7005, Contributing Equipment Purposes of Reference."""


DEVICE = Code("121007", "DCM", "Device")
"""A code of CID 270, Observer Type."""

RADIOGRAPH = Code("43468-8", "LN", "XR unspecified body region")
"""A code of CID 100, Quantitative Diagnostic Imaging Procedures.

CID 100 has no other code for radiographs.
"""

FRACTURE_OF_BONE = Code("125605004", "SCT", "Fracture of bone")

PRESENCE = Code("121052", "DCM", "Presence of property")

PRESENT = Code("52101004", "SCT", "Present")
ABSENT = Code("272519000", "SCT", "Absent")
"""A code of CID 240, Present-Absent, like PRESENT."""

SUSPECTED = Code("415684004", "SCT", "Suspected")
"""A code of CID 3770, Problem Status.

Apart from present and absent, CID 240 has only "Undetermined", which would mean that
the image cannot be judged.
"""

SUMMARY = Code("111017", "DCM", "CAD Processing and Findings Summary")

WITH_FINDINGS = Code("111242", "DCM", "All algorithms succeeded; with findings")
WITHOUT_FINDINGS = Code("111241", "DCM", "All algorithms succeeded; without findings")
SOME_WITH_FINDINGS = Code(
    "111244", "DCM", "Not all algorithms succeeded; with findings"
)
SOME_WITHOUT_FINDINGS = Code(
    "111243", "DCM", "Not all algorithms succeeded; without findings"
)
NO_RESULTS = Code("111245", "DCM", "No algorithms succeeded; without findings")
"""A code of CID 6047, CAD Processing and Finding Summary, like the four codes above."""

OPERATING_POINT = Code("111081", "DCM", "CAD Operating Point Description")
"""A concept name of TID 4023, CAD Operating Points."""

EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
"""A concept name of TID 1500, Measurement Report."""

SOURCE = Code("260753009", "SCT", "Source")

COMMENT = Code("121106", "DCM", "Comment")

PROBABILITY = Code("122157", "DCM", "Probability")

NO_UNITS = Code("1", "UCUM", "no units")

CONCEPT = Code("309825002", "SCT", "Spatial and Relational Concept")
"""A code of CID 7150, Segmentation Property Category.

The code is for properties that are not structures.
"""

VISUAL_EXPLANATION = Code("130401", "DCM", "Visual explanation")
"""A concept name of TID 1410 and TID 1501, the templates of measurement groups."""

GRAD_CAM = Code("130403", "DCM", "Gradient-weighted class activation")
"""A code of CID 217, Visual Explanation."""

ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
"""A code of CID 7162, Surface Processing Algorithm Family.

Results use this code for the model, although the model processes no surfaces.
"""

SIDES = {
    "L": Code("7771000", "SCT", "Left"),
    "R": Code("24028007", "SCT", "Right"),
}
"""Codes of CID 244, Laterality, by the value of Laterality (0020,0060)."""

BODY_PARTS = {
    "ACJOINT": Code("85856004", "SCT", "Acromioclavicular joint"),
    "ANKLE": Code("70258002", "SCT", "Ankle joint"),
    "ARM": Code("40983000", "SCT", "Upper arm"),
    "CALCANEUS": Code("80144004", "SCT", "Calcaneus"),
    "CLAVICLE": Code("51299004", "SCT", "Clavicle"),
    "ELBOW": Code("16953009", "SCT", "Elbow joint"),
    "EXTREMITY": Code("66019005", "SCT", "Extremity"),
    "FEMUR": Code("71341001", "SCT", "Femur"),
    "FIBULA": Code("87342007", "SCT", "Fibula"),
    "FINGER": Code("7569003", "SCT", "Finger"),
    "FOOT": Code("56459004", "SCT", "Foot"),
    "FOREARM": Code("14975008", "SCT", "Forearm"),
    "HAND": Code("85562004", "SCT", "Hand"),
    "HIP": Code("24136001", "SCT", "Hip joint"),
    "HUMERUS": Code("85050009", "SCT", "Humerus"),
    "KNEE": Code("72696002", "SCT", "Knee"),
    "LIMB": Code("66019005", "SCT", "Extremity"),
    "LOWEREXTREMITY": Code("61685007", "SCT", "Lower limb"),
    "UPPEREXTREMITY": Code("53120007", "SCT", "Upper limb"),
    "LEG": Code("30021000", "SCT", "Lower leg"),
    "PATELLA": Code("64234005", "SCT", "Patella"),
    "RADIUS": Code("62413002", "SCT", "Radius"),
    "SCAPULA": Code("79601000", "SCT", "Scapula"),
    "SHOULDER": Code("16982005", "SCT", "Shoulder"),
    "THIGH": Code("68367000", "SCT", "Thigh"),
    "THUMB": Code("76505004", "SCT", "Thumb"),
    "TIBIA": Code("12611008", "SCT", "Tibia"),
    "TOE": Code("29707007", "SCT", "Toe"),
    "ULNA": Code("23416004", "SCT", "Ulna"),
    "WRIST": Code("74670003", "SCT", "Wrist joint"),
}
"""Codes of the limbs and their parts, by Body Part Examined (PS3.16 annex L)."""


def code_item(code: Code) -> Dataset:
    """Return a code as the item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item
