"""Room `rewrite`."""
