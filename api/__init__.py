"""The HTTP side: /predict, the page, health."""
