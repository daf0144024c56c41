"""The web view inside each worker: writes, lookups, tRPC, pages, health."""
