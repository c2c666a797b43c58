"""The phantom: a synthetic radiograph of a long bone."""
