"""What an operator runs: verify, backup, repartition, recover, doctor, transfer."""
