"""`tools bench`: how fast this machine decodes, loads and trains."""
