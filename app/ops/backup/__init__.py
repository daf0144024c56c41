"""``backup`` and ``restore``: a whole registry to files, and back.

Workers may run while it is saved: writes are held for some seconds, until nothing is in flight;
what is saved is that moment. What is restored has the same offsets, so that every position that
was told answers as before. `files` are the files, `saving` and `restoring` what the commands do,
`exact` writes a log offset by offset. docs/decisions/backup.md tells why.
"""
