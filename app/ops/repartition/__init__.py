"""``repartition``: adds partitions while writes continue.

Each partition is split: its users move to partitions with the same remainder, so no other partition
is affected. Topics grow, so positions stay, and producers need not know. The tables get new
changelogs. `target_partitions` says which row goes where, `copying` copies the rows while workers
continue, `quiet` waits until nothing is in flight, and `steps` has the order.
`app.worker.repartitioning` is the part of a worker. Reasons: docs/decisions/repartition.md.
"""
