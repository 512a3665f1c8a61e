"""Room `verification`."""
