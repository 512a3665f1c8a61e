"""Room `compression`."""
