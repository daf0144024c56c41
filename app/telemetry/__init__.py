"""What a worker reports about itself: metrics, logs, traces."""
