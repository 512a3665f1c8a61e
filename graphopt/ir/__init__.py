"""Room `ir`."""
