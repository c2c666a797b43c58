"""What every process of the node needs: startup, signals, heartbeats, notifications."""
