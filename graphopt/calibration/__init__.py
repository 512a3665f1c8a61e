"""Room `calibration`."""
