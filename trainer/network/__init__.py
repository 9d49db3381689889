"""The network, its weights, and what these say of themselves."""
