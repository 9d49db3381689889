"""From a photograph's bytes to the prepared square: decode, find the retina, crop, resize, encode."""
