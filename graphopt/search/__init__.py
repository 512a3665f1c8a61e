"""Room `search`."""
