"""The network, its weights and their metadata."""
