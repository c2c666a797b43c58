"""Decides whether the model may analyze an instance, and decodes it.

The result is the radiograph for the model, or an image that a person views.
"""
