"""Who may do what over HTTP: keys, sessions, the audit log."""
