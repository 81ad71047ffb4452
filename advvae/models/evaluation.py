"""The state in which networks are evaluated."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

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
