"""What makes Faust fast and safe below our agents, by its own extension points.

In the order of the flow: `consumer` folds what one fetch returned for one partition into one event;
`partitions` hands it to the partition's owner; `transactions` writes what came of it, fenced;
`changelog` brings a store up to date; `takeover` does so after each rebalance. `lean` and `marker`
are what they stand on.
"""
