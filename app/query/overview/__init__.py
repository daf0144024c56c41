"""What the registry is doing, over all workers: what each tells, the sums, and who watches."""
