"""Receives, stores and records instances: the Storage SCP, and uploads of files."""
