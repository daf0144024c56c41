"""The engine: what makes the agents safe and fast, by Faust's extension points.

In the order of the flow: `consumer` is a member of the group. `assignment` opens the assigned
partitions (`barrier`, `changelog`, `partitions`). `cycles` hands `batches` to the agents, and
commits what they decide. `marker` says what is applied, and `lease` how long a partition is ours.
`app.kafka` speaks to the brokers.
"""
