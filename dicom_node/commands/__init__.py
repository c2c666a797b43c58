"""Most commands of `fracture-node`, each in its own module, and what they share."""
