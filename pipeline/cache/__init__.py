"""The cache of prepared photographs: its index, manifest, shards, splits and folds."""
