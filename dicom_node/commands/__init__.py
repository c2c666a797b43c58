"""The commands of `fracture-node`, one file per command."""
