"""Measurements: what one worker applies and acknowledges, beside peers in the same run."""
