"""Code that runs the processes: startup, signals, forks, heartbeats, notifications."""
