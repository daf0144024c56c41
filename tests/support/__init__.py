"""Helpers of several kinds of tests: builders, clients, brokers, workers."""
