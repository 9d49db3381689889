"""A page on this machine where a person has photographs graded: `trainer serve`."""
