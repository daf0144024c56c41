"""The peers: the same work in other engines, each a process of its own, at its best settings.

Every peer takes ``--brokers --topic --group --folder --partitions``. For every record it parses and
validates, gets the row of the id, writes one if there is none (to RocksDB and to a changelog that
all in-sync replicas acknowledge), and commits the source's offsets. The Python peers run in an
environment of their own (locks/bench.txt), as Quix Streams forbids the versions that we use.
"""
