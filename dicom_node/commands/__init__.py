"""The commands of `fracture-node`, one module per command, and common modules."""
