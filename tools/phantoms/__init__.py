"""Drawn eyes, for demos and tests where no real photograph may go."""
