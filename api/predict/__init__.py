"""POST /predict: the analysis of an uploaded file that is not stored."""
