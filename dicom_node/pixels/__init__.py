"""Decide whether the model may analyze an instance, and decode it.

Decoding makes the radiograph for the model, or an image that a person views.
"""
