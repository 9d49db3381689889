"""From a folder of fundus photographs to a checked cache: the `tools` command."""
