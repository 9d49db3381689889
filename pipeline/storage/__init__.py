"""Files here and behind URLs: written atomically, by one process at a time, never over other programs' files."""
