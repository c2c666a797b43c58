"""Makes a SOP Instance of a phantom, as a modality would send it.

`make run` sends such instances, and many tests use them. Their patient data may be
printed, because the patients are invented.
"""

from datetime import datetime

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from inference.phantom.long_bone import Phantom
from inference.phantom.tissue import WHITE

SPACING_MM = 0.3
"""Side of a pixel at the detector in mm. A phantom of 900 columns is 27 cm wide."""

MODALITY = {ComputedRadiographyImageStorage: "CR", SecondaryCaptureImageStorage: "RG"}
"""Modality (0008,0060) by SOP Class. It is DX for all other SOP Classes."""

REGION = {
    "LEG": ("30021000", "Lower leg"),
    "HAND": ("85562004", "Hand"),
    "FOREARM": ("14975008", "Forearm"),
    "ANKLE": ("70258002", "Ankle joint"),
}
"""SNOMED CT code and its meaning, by Body Part Examined (PS3.16 CID 4031)."""


def phantom_dataset(
    phantom: Phantom,
    *,
    sop_class_uid: UID = DigitalXRayImageStorageForPresentation,
    photometric_interpretation: str = "MONOCHROME2",
) -> Dataset:
    """Return a phantom as an instance of a new study with the current date.

    Args:
        phantom: The phantom. Its `fracture` determines the name of the patient:
            PHANTOM^BROKEN or PHANTOM^WHOLE.
        sop_class_uid: CR, DX or Secondary Capture.
        photometric_interpretation: "MONOCHROME2", or "MONOCHROME1" to store the same
            image with inverted values.

    Returns:
        The dataset with its File Meta Information, ready to be saved or sent. Each call
        makes new Study, Series and SOP Instance UIDs. All other attributes depend only
        on the arguments and the current time.
    """
    dataset = Dataset()
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = sop_class_uid
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    condition = "WHOLE" if phantom.fracture is None else "BROKEN"
    dataset.update(_identity(condition))
    dataset.update(_acquisition(sop_class_uid, phantom.body_part))
    dataset.update(_image(phantom, photometric_interpretation))
    if sop_class_uid == DigitalXRayImageStorageForPresentation:
        dataset.update(_digital_x_ray(dataset, phantom, "FOR PRESENTATION"))
    elif sop_class_uid == DigitalXRayImageStorageForProcessing:
        dataset.update(_digital_x_ray(dataset, phantom, "FOR PROCESSING"))
        # Only an image for presentation has a window (PS3.3 C.8.11.3).
        del dataset.WindowCenter, dataset.WindowWidth
    return dataset


def _identity(condition: str) -> Dataset:
    """Return the attributes of an invented patient, a new study and a new series."""
    now = datetime.now().astimezone()
    identity = Dataset()
    identity.SpecificCharacterSet = "ISO_IR 192"
    identity.PatientName = f"PHANTOM^{condition}"
    identity.PatientID = f"PHANTOM-{condition}"
    identity.PatientBirthDate = "19600101"
    identity.PatientSex = "O"
    identity.StudyInstanceUID = generate_uid()
    identity.SeriesInstanceUID = generate_uid()
    identity.StudyID = "1"
    identity.SeriesNumber = 1
    identity.InstanceNumber = 1
    identity.AccessionNumber = ""
    identity.ReferringPhysicianName = ""
    identity.StudyDescription = "Constancy test"
    for event in ("Study", "Series", "Acquisition", "Content"):
        setattr(identity, f"{event}Date", f"{now:%Y%m%d}")
        setattr(identity, f"{event}Time", f"{now:%H%M%S}")
    return identity


def _acquisition(sop_class_uid: UID, body_part: str) -> Dataset:
    """Return the attributes that say how the phantom was acquired, such as Modality."""
    acquisition = Dataset()
    acquisition.Modality = MODALITY.get(sop_class_uid, "DX")
    acquisition.Manufacturer = "fracture-node"
    acquisition.ManufacturerModelName = "Phantom"
    acquisition.BodyPartExamined = body_part
    acquisition.PatientOrientation = ["L", "F"]
    if sop_class_uid in MODALITY:
        acquisition.Laterality = "L"  # DX has only Image Laterality
    if sop_class_uid == SecondaryCaptureImageStorage:
        acquisition.ConversionType = "DI"
        return acquisition
    acquisition.ViewPosition = "AP"
    acquisition.ImagerPixelSpacing = [SPACING_MM, SPACING_MM]
    return acquisition


def _digital_x_ray(dataset: Dataset, phantom: Phantom, intent: str) -> Dataset:
    """Return the attributes that a phantom has only if its SOP Class is DX."""
    modules = Dataset()
    modules.PresentationIntentType = intent
    modules.PixelIntensityRelationship = "LOG"
    # If bone is stored bright, larger values mean less radiation (C.8.11.3.1.2).
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    modules.PixelIntensityRelationshipSign = 1 if inverted else -1
    modules.ImageLaterality = "L"
    modules.DetectorType = "DIRECT"
    modules.PositionerType = ""
    modules.AcquisitionContextSequence = []
    modules.AnatomicRegionSequence = [_code(*REGION[phantom.body_part])]
    modules.ViewCodeSequence = [_code("399348003", "antero-posterior")]
    return modules


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue = value
    code.CodingSchemeDesignator = "SCT"
    code.CodeMeaning = meaning
    return code


def _image(phantom: Phantom, photometric_interpretation: str) -> Dataset:
    """Return the attributes of the Image Pixel, VOI LUT and DX Image modules."""
    inverted = photometric_interpretation == "MONOCHROME1"
    stored = WHITE - phantom.pixels if inverted else phantom.pixels
    image = Dataset()
    image.ImageType = ["ORIGINAL", "PRIMARY"]
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = photometric_interpretation
    image.Rows, image.Columns = phantom.pixels.shape
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelRepresentation = 0
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = 0, 1, "US"
    image.WindowCenter, image.WindowWidth = (WHITE + 1) // 2, WHITE + 1
    image.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    image.LossyImageCompression = "00"
    image.BurnedInAnnotation = "NO"
    image.PixelData = np.ascontiguousarray(stored, dtype="<u2").tobytes()
    return image
