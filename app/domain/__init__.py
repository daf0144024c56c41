"""The decisions, pure: records, keys, positions, outcomes. No I/O, no framework."""
