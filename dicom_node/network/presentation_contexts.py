"""The SOP Classes and transfer syntaxes that the node accepts (PS3.4 annex B).

The SOP Classes of multi-frame Secondary Capture are not accepted, because the node
analyzes single radiographs. So the negotiation tells a sender that the node does not
analyze such an instance, before the sender has sent it.
"""

from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
)
from pynetdicom.presentation import PresentationContext, build_context

from dicom_node.dataset.transfer_syntaxes import DECODABLE

VERIFICATION = UID("1.2.840.10008.1.1")
STORAGE_COMMITMENT = UID("1.2.840.10008.1.20.1")
STORED: tuple[UID, ...] = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    XRayRadiofluoroscopicImageStorage,
    XRayAngiographicImageStorage,
    SecondaryCaptureImageStorage,
)
STORED_BY_SETTING: tuple[UID, ...] = (DigitalXRayImageStorageForProcessing,)


def served_contexts(*, for_processing: bool) -> list[PresentationContext]:
    """Return the presentation contexts that the node serves.

    Args:
        for_processing: Whether to include the SOP Class of digital X-ray images "for
            processing" (STORED_BY_SETTING).
    """
    stored = STORED + (STORED_BY_SETTING if for_processing else ())
    return [
        build_context(VERIFICATION, list(DECODABLE[:2])),
        *(build_context(sop_class, list(DECODABLE)) for sop_class in stored),
    ]


def reporting_context() -> PresentationContext:
    """Return the presentation context for the storage commitment reports of archives.

    The archive is the SCP, although it opens the association. The archive proposes the
    role of SCP by role selection (PS3.4 J.3.3, PS3.7 D.3.3.4). The node does not accept
    the role of SCU for the archive, because the node does not serve requests for
    storage commitment.
    """
    context = build_context(STORAGE_COMMITMENT, list(DECODABLE[:2]))
    context.scu_role, context.scp_role = False, True
    return context
