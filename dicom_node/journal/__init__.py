"""Writes the state of instances and deliveries, one transaction for each transition."""
