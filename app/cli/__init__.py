"""The command line: one module for each command, and one runner for all."""
