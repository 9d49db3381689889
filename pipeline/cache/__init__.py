"""The cache of prepared photographs: its index, its table, its shards, its splits."""
