"""The calls for programs: writes, lookups, lists, export, events, health, the API document."""
