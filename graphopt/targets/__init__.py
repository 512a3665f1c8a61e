"""Room `targets`."""
