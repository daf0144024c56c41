"""Services of the operating system: clocks, files, memory, the event loop, terminals."""
