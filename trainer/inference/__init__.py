"""From photographs to logits and grades. Commands, the page of `trainer serve` and the Python API call it."""
