"""From a cache to an honestly measured ResNet: the `trainer` command."""
