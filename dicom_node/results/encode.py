"""From a finding to the DICOM objects that carry it, one file an object."""

from collections.abc import Callable

from dicom_node.decode import pydicom_silenced
from dicom_node.instance import ReceivedInstance
from dicom_node.results.heatmap import KIND as HEATMAP
from dicom_node.results.heatmap import heatmap
from dicom_node.results.identity import Source, read_source
from dicom_node.results.objects import ResultObject, ResultOptions
from dicom_node.results.presentation_state import KIND as PRESENTATION_STATE
from dicom_node.results.presentation_state import presentation_state
from dicom_node.results.secondary_capture import KIND as SECONDARY_CAPTURE
from dicom_node.results.secondary_capture import secondary_capture
from dicom_node.results.structured_report import KIND as STRUCTURED_REPORT
from dicom_node.results.structured_report import structured_report
from inference.finding import Finding
from inference.radiograph import Radiograph

__all__ = ["ResultObject", "ResultOptions", "encode_file"]

_Encoder = Callable[[Source, Radiograph, Finding, ResultOptions], ResultObject | None]

_ENCODERS: dict[str, _Encoder] = {
    HEATMAP: heatmap,
    PRESENTATION_STATE: presentation_state,
    SECONDARY_CAPTURE: secondary_capture,
    STRUCTURED_REPORT: structured_report,
}


def encode_file(
    instance: ReceivedInstance,
    radiograph: Radiograph,
    finding: Finding,
    options: ResultOptions,
) -> tuple[ResultObject, ...]:
    """Write a finding down as DICOM, in the study it belongs to.

    Args:
        instance: What was analyzed. Of its file only the header is read.
        radiograph: Its pixels as displayed.
        finding: What was found on them.
        options: Which objects, and how they look.

    Returns:
        One object for each kind, in the order of the kinds; none of a kind that has
        nothing to say of this finding. Called again with the same arguments, it returns
        the same bytes.

    Raises:
        AnalysisError: The header cannot be read, or names no study.
    """
    with pydicom_silenced():
        source = read_source(instance)
        made = (
            _ENCODERS[kind](source, radiograph, finding, options)
            for kind in options.kinds
        )
        return tuple(each for each in made if each is not None)
