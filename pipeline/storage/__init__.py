"""Files here and behind URLs: whole or not there, one writer at a time, and never over what others made."""
