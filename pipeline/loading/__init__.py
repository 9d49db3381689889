"""Batches for a trainer: an epoch is a table (plan), and a loader renders it."""
