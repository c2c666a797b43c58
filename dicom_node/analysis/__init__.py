"""The pipeline from an instance or a file to the report of the finding."""
