"""The engine: what is safe and fast below our agents, by Faust's extension points.

In the order of the flow: `consumer` is a member of the group; `assignment` opens what it is given
(`barrier`, `changelog`, `partitions`); `cycles` hands `batches` to the agents, and commits what
they decide. `marker` says what is applied, and `lease` how long it is ours. What speaks to the
brokers is in `app.kafka`.
"""
