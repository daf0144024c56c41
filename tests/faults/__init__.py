"""Faults at every step of a worker: the table of steps, what injects them, and what runs them all.

``python -m tests.faults`` runs every cell, writes ``bench/results/faults.json`` and the table in
docs/faults.md.
"""
