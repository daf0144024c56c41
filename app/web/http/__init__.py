"""What HTTP wants of every request: bounds, hosts, clients, bodies, problems."""
