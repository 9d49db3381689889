"""Synchronised BatchNorm: statistics over the whole batch, which several processes share.

With statistics of its own part each rank would train another network than one process does: with 32 photographs on 8
ranks, a mean would be over 4. On GPUs torch's SyncBatchNorm is used. On CPUs it raises ("expected input tensor to be on
GPU", torch 2.14), so this module does it, with torch's own kernels and two small collectives per layer.
"""

from functools import cache
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import RunError
from trainer.distributed.process_group import TIMEOUT, world_size


def check_synchronisable(model: nn.Module) -> None:
    """Raises RunError where several processes train a network with BatchNorm layers that `synchronise` cannot change.
    Subclasses do more than normalise: timm's BatchNormAct2d has the activation in it."""
    if world_size() == 1:
        return
    for name, module in model.named_modules():
        plain = type(module) is nn.BatchNorm2d and module.affine and module.track_running_stats and module.momentum
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not plain:
            raise RunError(
                f"{name} is a {type(module).__name__} whose statistics several processes cannot share; train with one "
                "process, or use layers without statistics of the batch (LayerNorm, GroupNorm)"
            )


def synchronise(model: nn.Module, device: torch.device) -> None:
    """Makes the BatchNorm layers of a model use statistics of the whole batch. With one process it changes nothing.

    device: where the model is.
    """
    if world_size() == 1:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = SynchronisedBatchNorm  # parameters and names stay; torch's lazy modules do the same


@cache
def _group() -> dist.ProcessGroup:
    """A process group for these small messages, so that they do not wait for DistributedDataParallel's of 25 MB
    each."""
    group = dist.new_group(backend="gloo", timeout=TIMEOUT)
    assert isinstance(group, dist.ProcessGroup)
    return group


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d that trains with the statistics of all ranks' batches. A rank's batch may be empty."""

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, h, w), normalised, from this rank's part (n, c, h, w) of the batch, on the CPU; float32 or
        bfloat16."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        mean, var, values = batch_statistics(input, self.running_mean)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (values / (values - 1)), self.momentum)
        output: Tensor = _Normalise.apply(input, self.weight, self.bias, mean, var, values, self.eps)
        return output


@torch.no_grad()
def batch_statistics(input: Tensor, running: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean (c,) and biased variance (c,) over all ranks' inputs (n_rank, c, h, w), and the number of values of each.

    Their dtype is that of `running`, the running mean. The ranks' statistics are combined in double precision, by the
    formula of Chan, Golub and LeVeque (1979).
    """
    channels = input.shape[1]
    values = input.numel() // channels
    mine = torch.zeros(3, channels, dtype=torch.float64)
    if values:
        unused = running.new_zeros(2, channels)  # its dtype is that of the sums
        mine[0], mine[1] = torch.batch_norm_update_stats(input, unused[0], unused[1], 0.0)
        mine[2] = values
    theirs = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(theirs, mine, _group())
    means, variances, counts = torch.stack(theirs, 1)
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count
    variance = (counts * (variances + (means - mean) ** 2)).sum(0) / count
    return mean.to(running.dtype), variance.to(running.dtype), float(count[0])


class _Normalise(torch.autograd.Function):
    """BatchNorm with given statistics, whose gradient takes into account that they depend on the inputs of all ranks.

    With x' the normalised input, n values per channel, and sums over all ranks, the gradient of the input is
    weight / std * (dy - sum(dy) / n - x' * sum(dy x') / n). torch's kernel for fixed statistics gives the sums over
    this rank's part. The rest has the form a * dy + b * x + c per channel: a BatchNorm of dy and one more pass.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, values: float, eps: float
    ) -> Tensor:
        ctx.save_for_backward(input, weight, mean, var)
        ctx.values, ctx.eps = values, eps
        return F.batch_norm(input, mean, var, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (d_output,) = gradients
        input, weight, mean, var = ctx.saved_tensors
        d_weight, d_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        if input.numel():
            _, d_weight, d_bias = torch.ops.aten.native_batch_norm_backward(
                d_output, input, weight, mean, var, None, None, False, ctx.eps, [False, True, True]
            )
        sums = torch.stack([d_weight, d_bias])  # a copy: DistributedDataParallel adds up the two themselves
        dist.all_reduce(sums, group=_group())
        if not input.numel():
            return torch.empty_like(input), d_weight, d_bias, None, None, None, None
        by_std = (var + ctx.eps).rsqrt()
        scale = weight * by_std
        of_input = (-scale * by_std * sums[0] / ctx.values).to(input.dtype)
        shift = -scale * sums[1] / ctx.values - of_input * mean
        # 1 + 1e-30 is 1 in float32; releases before torch 2.14 refuse an eps of 0.
        d_input = F.batch_norm(d_output, torch.zeros_like(mean), torch.ones_like(var), scale, shift, eps=1e-30)
        d_input.addcmul_(input, of_input[:, None, None])
        return d_input, d_weight, d_bias, None, None, None, None
