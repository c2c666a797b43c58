"""The attributes of an image from which its results are made.

Results read these attributes (results/source.py). They are the identity of the image,
too: if one of them is corrected, the results change (pixels/identity.py).
"""

TYPE_2 = (
    # Patient (PS3.3 C.7.1.1)
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    # General Study (C.7.2.1)
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID",
)  # fmt: skip
"""Attributes that are copied, and written empty if the source lacks them."""

IMAGE_TYPE_2 = ("InstanceNumber", "PatientOrientation")
"""Attributes of images that are copied, and written empty if the source lacks them.

The attributes are from the General Image module (PS3.3 C.7.6.1).
"""

TYPE_3 = (
    # SOP Common (C.12.1)
    "SpecificCharacterSet", "TimezoneOffsetFromUTC",
    # Patient (C.7.1.1)
    "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "TypeOfPatientID",
    "PatientBirthTime", "OtherPatientIDs", "OtherPatientNames",
    "OtherPatientIDsSequence", "EthnicGroup", "PatientComments",
    "QualityControlSubject", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "PatientSpeciesDescription", "PatientSpeciesCodeSequence",
    "PatientBreedDescription", "PatientBreedCodeSequence",
    "BreedRegistrationSequence", "ResponsiblePerson", "ResponsiblePersonRole",
    "ResponsibleOrganization",
    # Clinical Trial Subject and Study (C.7.1.3, C.7.2.3)
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription",
    # General Study (C.7.2.1)
    "StudyInstanceUID", "StudyDescription", "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianIdentificationSequence", "PhysiciansOfRecord",
    "ProcedureCodeSequence", "ReferencedStudySequence",
    # Patient Study (C.7.2.2)
    "PatientAge", "PatientSize", "PatientWeight", "PatientSexNeutered",
    "AdmissionID", "IssuerOfAdmissionIDSequence", "ServiceEpisodeID",
    "IssuerOfServiceEpisodeIDSequence", "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence", "MedicalAlerts", "Allergies", "SmokingStatus",
    "PregnancyStatus", "LastMenstrualDate", "PatientState", "Occupation",
    "AdditionalPatientHistory", "ReasonForVisit",
    # General Series (C.7.3.1): the order
    "RequestAttributesSequence",
)  # fmt: skip
"""Attributes that are copied if the source has them."""

IMAGE_TYPE_3 = (
    # General Image (C.7.6.1) and other attributes that identify the image
    "ViewPosition", "AcquisitionDate", "AcquisitionTime",
    # Whether the pixels of the source identify the patient; the caption does not
    "BurnedInAnnotation", "RecognizableVisualFeatures",
)  # fmt: skip
"""Attributes of images that are copied if the source has them."""

READ_TOO = (
    "PixelSpacing", "PixelSpacingCalibrationType", "PixelSpacingCalibrationDescription",
    "ImagerPixelSpacing", "NominalScannedPixelSpacing",
    "LossyImageCompression", "LossyImageCompressionRatio",
    "LossyImageCompressionMethod", "SeriesInstanceUID", "SeriesNumber",
    "BodyPartExamined",
    "Laterality", "ImageLaterality", "AnatomicRegionSequence",
    "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest",
    "Rows", "Columns",
    # Attributes that determine how the pixels are displayed
    "SOPClassUID", "PhotometricInterpretation", "PixelAspectRatio",
    "BitsStored", "HighBit", "PixelRepresentation",
    "ModalityLUTSequence", "RescaleIntercept", "RescaleSlope", "RescaleType",
    "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "ShutterShape", "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge",
    "ShutterUpperHorizontalEdge", "ShutterLowerHorizontalEdge",
    "CenterOfCircularShutter", "RadiusOfCircularShutter",
    "VerticesOfThePolygonalShutter", "ShutterPresentationValue",
)  # fmt: skip
"""Attributes that are copied only under conditions, or are read but not copied."""

SOURCE_ATTRIBUTES = (*TYPE_2, *IMAGE_TYPE_2, *TYPE_3, *IMAGE_TYPE_3, *READ_TOO)
"""All attributes of the source that a result may depend on, besides the pixels."""
