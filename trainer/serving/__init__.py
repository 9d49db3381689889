"""`trainer serve`: a page on this machine that grades photographs."""
