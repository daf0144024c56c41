"""``repartition``: adds partitions while writes go on.

Each partition is split: its users move to partitions of which they leave the same remainder, so
that nobody else is concerned. Topics grow, so that positions, and producers that know nothing of
this, stay as they are; the tables get new changelogs. `homes` says which row goes where, `copying`
copies them while workers go on, `quiet` says when nothing is in flight, `steps` puts these in
order, and `watching` is what a worker does meanwhile. docs/decisions/repartition.md tells why.
"""
