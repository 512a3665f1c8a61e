"""Room `deploy`."""
