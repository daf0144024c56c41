"""The engine: what is safe and fast below our agents, by Faust's extension points.

In the order of the flow: `consumer` is a member of the group; `assignment` opens what it is given
(`barrier`, `changelog`, `partitions`); `fetching` reads the sources (`record_batches`); `cycles`
hands `batches` to the agents, and commits what they decide (`transactions`). `cluster` and
`protocol` speak to the brokers. `marker` says what is applied, and `lease` how long it is ours.
"""
