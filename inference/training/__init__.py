"""Training and evaluation of the weights that the node ships with."""
