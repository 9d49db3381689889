"""The network, its weights, their metadata, and the decision rule that they carry."""
