"""Code that all processes of the node use: startup, signals, heartbeats, wakeups."""
