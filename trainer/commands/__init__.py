"""The commands: the only room that speaks to the terminal."""
