"""Room `passes`."""
