"""Everything that speaks to brokers: requests, reading, transactions, topics, rights."""
