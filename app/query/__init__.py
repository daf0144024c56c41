"""The way of a lookup: who owns a partition, the answer of the owner, lists over all workers."""
