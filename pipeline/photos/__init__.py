"""From the bytes of a photograph to the prepared square: decode, find the retina, crop, resize, encode."""
