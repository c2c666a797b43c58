"""Classify a radiograph: preparation, network, Grad-CAM, localization."""
