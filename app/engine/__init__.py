"""What makes Faust safe below our agents: consumption without holes."""
