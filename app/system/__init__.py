"""What the operating system gives: clocks, files, memory, the event loop, terminals."""
