"""Settings, and what is made of them: connections to Kafka, TLS, targets of commands."""
