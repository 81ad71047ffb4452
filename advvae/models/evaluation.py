"""How networks are evaluated: in which state, and on all images of a split by all ranks together."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from advvae import distributed
from advvae.data import Split
from advvae.data.splits import divide
from advvae.memory import ValuesOfImages
from advvae.progress import watched

Device = torch.device | str


@contextmanager
def evaluation(networks: nn.Module, device: Device) -> Iterator[None]:
    """Networks as they are evaluated: running statistics that stay as they are, no gradients, full float32.

    Every module's mode and the precision settings are put back afterwards.
    """
    modes = {module: module.training for module in networks.modules()}
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    networks.eval()
    # TF32 rounds products to 10 bits, each kernel in its own way: scores would change with the batch size.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.no_grad(), torch.autocast(torch.device(device).type, enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = tf32
        for module, training in modes.items():
            module.training = training


def of_all_images(
    networks: nn.Module,
    split: Split,
    compute: Callable[[Tensor, Tensor], Mapping[str, Tensor]],
    *,
    batch_size: int,
    device: Device,
    num_workers: int = 0,
    what: str,
) -> dict[str, Tensor]:
    """What `compute` gives of each image: name -> (n, …), in the order of `split`. Each rank takes some of the batches.

    Args:
        compute: (images (B, C, H, W) in [-1, 1], their positions in `split` (B,) int64) -> name -> (B, …).
        what: a progress bar says.
    """
    own = divide(torch.arange(len(split)), batch_size)[distributed.rank() :: distributed.n_ranks()]
    all_own = torch.cat([torch.arange(0), *own])
    values = ValuesOfImages(len(all_own))
    with evaluation(networks, device):
        batches = split.subset(all_own).batches(batch_size, device, num_workers=num_workers)
        for positions, images in zip(own, watched(batches, what, len(own)), strict=True):
            for name, of_batch in compute(images, positions).items():
                values.add(name, of_batch)
    return distributed.gathered(values.by_name, all_own, len(split))
