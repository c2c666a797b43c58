"""The baseline of `make bench`: a straightforward implementation.

The C-STORE handler of the baseline does all work before it responds: pydicom's modality
and VOI LUT over the whole image, torchvision's transforms, one forward pass for the
result, another forward pass with a full backward pass for Grad-CAM, a color map,
highdicom's Secondary Capture, and a C-STORE to the archive over a new association. The
network and its weights are those of the node, so that only the implementation differs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from highdicom.sc import SCImage
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer
from torch import Tensor
from torchvision import transforms

from dicom_node.network.presentation_contexts import STORED
from models.card import ModelCard
from models.network import Network

OPACITY = 0.4


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """The straightforward implementation, with the network of the node.

    Attributes:
        network: The network, without folded batch normalization.
        card: The model card.
        label: The index of the class "Fracture".
    """

    network: Network
    card: ModelCard
    label: int

    def decode(self, file: Path | BytesIO) -> tuple[Dataset, NDArray[np.uint8], Tensor]:
        """Return the dataset, the displayed image and the input of the network."""
        dataset = dcmread(file, force=True)
        values = apply_modality_lut(dataset.pixel_array, dataset)
        shown = np.asarray(apply_voi_lut(values, dataset), np.float64)
        low, high = shown.min(), shown.max()
        picture = ((shown - low) / max(high - low, 1e-9) * 255).astype(np.uint8)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            picture = 255 - picture
        side = self.card.input_size
        transform = transforms.Compose(
            [
                transforms.Resize((side, side)),
                transforms.ToTensor(),
                transforms.Normalize(self.card.mean, self.card.std),
            ]
        )
        rgb = Image.fromarray(picture).convert("RGB")
        return dataset, picture, transform(rgb).unsqueeze(0)

    def classify(self, tensor: Tensor) -> tuple[float, NDArray[np.float32]]:
        """Return the probability of a fracture, and a Grad-CAM heatmap from 0 to 1."""
        with torch.no_grad():
            logits = self.network.head(self.network.features(tensor))
            probability = logits.softmax(dim=1)[0, self.label].item()
        activation = self.network.features(tensor)
        activation.retain_grad()
        self.network.head(activation)[0, self.label].backward()
        assert activation.grad is not None
        weights = activation.grad.mean(dim=(2, 3), keepdim=True)
        heatmap = (weights * activation).sum(dim=1)[0].relu().detach().numpy()
        return probability, heatmap / max(float(heatmap.max()), 1e-9)

    def capture(
        self, source: Dataset, picture: NDArray[np.uint8], heatmap: NDArray[np.float32]
    ) -> Dataset:
        """Return a Secondary Capture of the whole image with the heatmap over it."""
        rows, columns = picture.shape
        levels = np.uint8(255 * cv2.resize(heatmap, (columns, rows)))
        colored = cv2.applyColorMap(levels, cv2.COLORMAP_JET)[..., ::-1]
        gray = cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB)
        blended = cv2.addWeighted(gray, 1 - OPACITY, colored, OPACITY, 0)
        return SCImage(
            pixel_array=blended,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            study_instance_uid=source.StudyInstanceUID,
            series_instance_uid=generate_uid(),
            sop_instance_uid=generate_uid(),
            series_number=9001,
            instance_number=1,
            manufacturer="baseline",
            patient_id=source.PatientID,
            patient_name=source.PatientName,
            patient_orientation=["L", "F"],
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )

    @contextmanager
    def serving(self, archive_port: int) -> Iterator[int]:
        """Run a Storage SCP that does all work in its handler; yield its port."""
        ae = AE("BASELINE")
        for each in STORED:
            ae.add_supported_context(each, ExplicitVRLittleEndian)
        handlers = [(evt.EVT_C_STORE, self._on_store, [archive_port])]
        address = ("127.0.0.1", 0)
        server = ae.start_server(address, block=False, evt_handlers=handlers)
        assert isinstance(server, ThreadedAssociationServer)
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()

    def _on_store(self, event: evt.Event, archive_port: int) -> int:
        part10 = BytesIO()
        source = event.dataset
        source.file_meta = event.file_meta
        source.save_as(part10, enforce_file_format=True)
        part10.seek(0)
        dataset, picture, tensor = self.decode(part10)
        _, heatmap = self.classify(tensor)
        deliver(self.capture(dataset, picture, heatmap), archive_port)
        return 0x0000


def deliver(result: Dataset, port: int) -> None:
    """Send a result to the archive at a port, over a new association."""
    ae = AE("BASELINE")
    ae.add_requested_context(SecondaryCaptureImageStorage, ExplicitVRLittleEndian)
    association: Any = ae.associate("127.0.0.1", port, ae_title="ARCHIVE")
    status = association.send_c_store(result)
    association.release()
    assert status.Status == 0x0000
