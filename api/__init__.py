"""The web application: /predict, the pages, the API and the health checks."""
