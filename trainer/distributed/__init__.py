"""Distributed training: several processes train one network (torchrun, torch.distributed)."""
