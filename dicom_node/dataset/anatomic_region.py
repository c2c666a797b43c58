"""The body part that the Anatomic Region Sequence (0008,2218) of an image names.

Some DX equipment sends this sequence, and no Body Part Examined (0018,0015).
"""

from pydicom import Dataset

from dicom_node.dataset.attributes import items, text

SCHEMES = frozenset({"SCT", "SRT", "SNM3", "99SDM"})
"""Coding Scheme Designators of SNOMED (PS3.16 8.1). Only SCT is not retired."""

REGIONS = (
    ("ABDOMEN", "818981001 113345001", "T-D4000"),
    ("ABDOMENPELVIS", "818982008 416949008", "R-FAB57"),
    ("ACJOINT", "85856004", "T-15420"),
    ("ANKLE", "70258002", "T-15750"),
    ("ARM", "40983000", "T-D8200"),
    ("BREAST", "76752008", "T-04000"),
    ("CALCANEUS", "80144004", "T-12770"),
    ("CHEST", "816094009 51185008", "T-D3000"),
    ("CHESTABDOMEN", "416550000", "R-FAB55"),
    ("CHESTABDPELVIS", "416775004", "R-FAB56"),
    ("CLAVICLE", "51299004", "T-12310"),
    ("COCCYX", "64688005", "T-11BF0"),
    ("CSPINE", "122494005", "T-11501"),
    ("CTSPINE", "1217257000 297171002", "T-D00F7"),
    ("ELBOW", "16953009", "T-15430"),
    ("ESOPHAGUS", "32849002", "T-56000"),
    ("EXTREMITY", "66019005", "T-D0300"),
    ("FACE", "89545001 91397008", "T-D1200 T-11196"),
    ("FEMUR", "71341001", "T-12710"),
    ("FIBULA", "87342007", "T-12750"),
    ("FINGER", "7569003", "T-D8800"),
    ("FOOT", "56459004", "T-D9700"),
    ("FOREARM", "14975008", "T-D8500"),
    ("HAND", "85562004", "T-D8700"),
    ("HEAD", "69536005", "T-D1100"),
    ("HEADNECK", "774007", "T-D1000"),
    ("HEART", "80891009", "T-32000"),
    ("HIP", "24136001 29836001", "T-15710 T-D2500"),
    ("HUMERUS", "85050009", "T-12410"),
    ("ILIUM", "22356005", "T-12340"),
    ("JAW", "661005", "T-D1213"),
    ("KNEE", "72696002", "T-D9200"),
    ("LARYNX", "4596009", "T-24100"),
    ("LEG", "30021000", "T-D9400"),
    ("LOWEREXTREMITY", "61685007", "T-D9000"),
    ("LSPINE", "122496007", "T-11503"),
    ("LSSPINE", "1217253001 297173004", "T-D00F9"),
    ("MANDIBLE", "91609006", "T-11180"),
    ("MASTOID", "59066005", "T-11133"),
    ("MAXILLA", "70925003", "T-11170"),
    ("MEDIASTINUM", "72410000", "T-D3300"),
    ("NECK", "45048000", "T-D1600"),
    ("NECKCHEST", "417437006", "R-FAB52"),
    ("ORBIT", "363654007", "T-D14AE"),
    ("PATELLA", "64234005", "T-12730"),
    ("PELVIS", "816092008 12921003", "T-D6000"),
    ("RADIUS", "62413002", "T-12420"),
    ("RIB", "113197003", "T-11300"),
    ("SCAPULA", "79601000", "T-12280"),
    ("SCJOINT", "7844006", "T-15610"),
    ("SHOULDER", "16982005", "T-D2220"),
    ("SIJOINT", "39723000", "T-15680"),
    ("SINUS", "2095001", "T-22000"),
    ("SKULL", "89546000", "T-11100"),
    ("SPINE", "421060004", "T-D04FF"),
    ("SSPINE", "54735007", "T-11AD0"),
    ("STERNUM", "56873002", "T-11210"),
    ("THIGH", "68367000", "T-D9100"),
    ("THUMB", "76505004", "T-D8810"),
    ("TIBIA", "12611008", "T-12740"),
    ("TLSPINE", "1217256009 297172009", "T-D00F8"),
    ("TMJ", "53620006", "T-15290"),
    ("TOE", "29707007", "T-D9800"),
    ("TRACHEA", "44567001", "T-25000"),
    ("TSPINE", "122495006", "T-11502"),
    ("ULNA", "23416004", "T-12430"),
    ("UPPEREXTREMITY", "53120007", "T-D8000"),
    ("WHOLEBODY", "38266002", "T-D0010"),
    ("WRIST", "74670003", "T-15460"),
    ("ZYGOMA", "13881006", "T-11166"),
)
"""The body parts on radiographs, with the codes of the same regions (PS3.16 annex L).

Each row has a value of Body Part Examined, codes of SNOMED CT, and codes of SNOMED RT,
which older equipment uses. Some of the codes of SNOMED CT are retired.
"""

BODY_PART_SYNONYMS = {
    "FULLLEG": "LOWEREXTREMITY",
    "LONGLEG": "LOWEREXTREMITY",
    "LOWERARM": "FOREARM",
    "LOWERLEG": "LEG",
    "LOWERLIMB": "LOWEREXTREMITY",
    "RADIUSULNA": "FOREARM",
    "TIBIAFIBULA": "LEG",
    "UPPERARM": "ARM",
    "UPPERLEG": "THIGH",
    "UPPERLIMB": "UPPEREXTREMITY",
    "WHOLEARM": "UPPEREXTREMITY",
    "WHOLELEG": "LOWEREXTREMITY",
}
"""Values of Body Part Examined, by other names that some equipment uses."""

_BY_CODE = {
    code: part for part, *codes in REGIONS for each in codes for code in each.split()
}


def region(dataset: Dataset) -> tuple[str, str]:
    """Return the code of the anatomic region, and the body part with this code.

    The body part is a value of Body Part Examined. Both are empty if the sequence is
    absent, if it does not have exactly one item, or if its code is not in REGIONS.
    """
    found = items(dataset, "AnatomicRegionSequence")
    if len(found) != 1 or text(found[0], "CodingSchemeDesignator") not in SCHEMES:
        return "", ""
    code = text(found[0], "CodeValue")
    return (code, _BY_CODE[code]) if code in _BY_CODE else ("", "")
