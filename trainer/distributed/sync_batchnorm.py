"""BatchNorm whose statistics are those of the whole batch, though several processes have a share of it each.

With statistics of its share alone each rank would train another network than one process does: of 32 photographs on 8
ranks a mean would be over 4. On GPUs torch's SyncBatchNorm does it; on CPUs that raises ("expected input tensor to be
on GPU", torch 2.14), so there it is done here, by torch's own kernels and two small collectives a layer.
"""

from functools import cache
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.distributed.process_group import TIMEOUT, world_size


def synchronise(model: nn.Module, device: torch.device) -> None:
    """Makes the BatchNorm layers of a model, which lies on the device, see the whole batch; alone, changes nothing."""
    if world_size() == 1:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = WholeBatchNorm  # as torch's lazy modules become others: parameters and names stay


@cache
def _lane() -> dist.ProcessGroup:
    """Connections for these small messages alone: none waits behind DistributedDataParallel's, of 25 MB each."""
    lane = dist.new_group(backend="gloo", timeout=TIMEOUT)
    assert isinstance(lane, dist.ProcessGroup)
    return lane


class WholeBatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d, in training over the batches of all ranks; one of them may be empty."""

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, h, w) of this rank's share, on the CPU; bfloat16 too."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        mean, var, values = whole_statistics(input, self.running_mean)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (values / (values - 1)), self.momentum)
        output: Tensor = _Normalise.apply(input, self.weight, self.bias, mean, var, values, self.eps)
        return output


@torch.no_grad()
def whole_statistics(input: Tensor, running: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean and biased variance, (c,), of what all ranks have (n_rank, c, h, w) of, and over how many values each is.

    In the type of the `running` statistics. The ranks' own are put together in double precision, by the formula of
    Chan, Golub and LeVeque (1979).
    """
    channels = input.shape[1]
    values = input.numel() // channels
    mine = torch.zeros(3, channels, dtype=torch.float64)
    if values:
        unused = running.new_zeros(2, channels)  # says in which type to add up
        mine[0], mine[1] = torch.batch_norm_update_stats(input, unused[0], unused[1], 0.0)
        mine[2] = values
    theirs = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(theirs, mine, _lane())
    means, variances, counts = torch.stack(theirs, 1)
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count
    variance = (counts * (variances + (means - mean) ** 2)).sum(0) / count
    return mean.to(running.dtype), variance.to(running.dtype), float(count[0])


class _Normalise(torch.autograd.Function):
    """BatchNorm by given statistics, which the gradient knows to depend on the ranks' inputs.

    With x' the normalised input, n values a channel and sums over all ranks, the gradient of the input is
    weight / std * (dy - sum(dy) / n - x' * sum(dy x') / n). The sums over this rank's share are what torch's kernel for
    fixed statistics gives; the rest, a channel's a * dy + b * x + c, is a BatchNorm of dy and one pass more.
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
        sums = torch.stack([d_weight, d_bias])  # DistributedDataParallel adds up these two themselves
        dist.all_reduce(sums, group=_lane())
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
