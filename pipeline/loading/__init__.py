"""Batches for a trainer. The plan of an epoch is a table, and a loader renders it."""
