"""What is decided, pure: records, keys, positions, outcomes, decisions. No I/O, no framework."""
