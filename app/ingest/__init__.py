"""The way of a write to the broker: rate limits, accumulator, producer, fence."""
