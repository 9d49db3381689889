"""The vocabulary of graded fundus photographs, their cache, and the loaders that feed a trainer from it."""
