"""Convert a dataset to the image for the model, or to the image for a person."""
