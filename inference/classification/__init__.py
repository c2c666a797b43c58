"""From a radiograph to a finding: preparation, network, Grad-CAM, localization."""
