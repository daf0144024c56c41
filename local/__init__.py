"""The registry on one machine: Kafka from the registries, and the supervisor behind `make run`."""
