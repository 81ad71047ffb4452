"""Convolutions whose gradients are fast on a CPU; on every other device they are PyTorch's own.

PyTorch's convolutions on a CPU (oneDNN's) come near the speed of a matrix product forwards, but not backwards: the
gradient of the bias costs up to twice that of the weights, that of the weights in bfloat16 runs at a third of a matrix
product, and where one side has 1 or 3 channels, as images have, both directions run at a tenth. Sums, products of
matrices and shifted sums give the same numbers, to rounding.

All is told by two sides of a convolution with stride: the large map (B, L, H, W) and the small one (B, S, h, w), joined
by weights (S, L, k, k). A convolution gathers the small map from the large one, a transposed one scatters the small
one over the large; each is the gradient of the other.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

THIN = 4  # channels; with no more than these, oneDNN is slower than a product of matrices
PATCHES_AT_MOST = 2**23  # bytes; larger ones leave the cache, and a product over them gains nothing
FEW_PATCHES = 2**22  # bytes; towards the small map, oneDNN is slower than such a product only up to here


class Conv2d(nn.Conv2d):
    """nn.Conv2d of square kernels, strides and paddings, without groups or dilation."""

    def forward(self, images: Tensor) -> Tensor:
        if _is_left_to_pytorch(images):
            return super().forward(images)
        kernel, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        if self.out_channels <= THIN and stride == 1:  # without a stride, gathering is scattering by the turned kernel
            turned = self.weight.transpose(0, 1).flip(2, 3)
            sides = [side + 2 * padding - kernel + 1 for side in images.shape[2:]]
            return _played(_Scatter, images, turned, self.bias, 1, kernel - 1 - padding, sides)
        return _played(_Gather, images, self.weight, self.bias, stride, padding)


class ConvTranspose2d(nn.ConvTranspose2d):
    """nn.ConvTranspose2d of square kernels, strides and paddings, without groups or dilation."""

    def forward(self, images: Tensor, output_size: list[int] | None = None) -> Tensor:
        if _is_left_to_pytorch(images) or output_size is not None:
            return super().forward(images, output_size)
        kernel, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        sides = [
            (side - 1) * stride - 2 * padding + kernel + extra
            for side, extra in zip(images.shape[2:], self.output_padding, strict=True)
        ]
        return _played(_Scatter, images, self.weight, self.bias, stride, padding, sides)


def _played(function: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    """A function below, in autocast's type.

    Casting is left to autograd: what a function casts itself has no way back to the weights, which a gradient of
    gradients needs.
    """
    if not torch.is_autocast_enabled("cpu"):
        return function.apply(maps, weight, bias, *geometry)
    kind = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):
        return function.apply(maps.to(kind), weight.to(kind), None if bias is None else bias.to(kind), *geometry)


def flatten(maps: Tensor) -> Tensor:
    """maps.flatten(1), whose gradient comes back channels last: in another layout, it makes what it meets slow."""
    return maps.flatten(1) if _is_left_to_pytorch(maps) else _Flatten.apply(maps)


def _is_left_to_pytorch(maps: Tensor) -> bool:
    """Another device, or a graph on its way to another runtime, which has convolutions of its own."""
    return maps.device.type != "cpu" or torch.compiler.is_exporting()


class _Flatten(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.shape = maps.shape
        return maps.flatten(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].view(ctx.shape).contiguous(memory_format=torch.channels_last)


class _Gather(torch.autograd.Function):
    """large (B, L, H, W), weight (S, L, k, k), bias (S,) or None -> small (B, S, h, w)."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx: Any, large: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        patches = _few_patches(large, weight, stride, padding)
        ctx.save_for_backward(large, weight, patches)
        ctx.stride, ctx.padding = stride, padding
        if patches is not None:
            return _gather_patches(patches, weight, bias).clone()  # no view, which no activation could change in place
        if weight.shape[1] == 1:  # then its strides alone tell which layout the small map is to have
            weight = weight.clone(memory_format=torch.channels_last)
        return functional.conv2d(large, weight, bias, stride, padding)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (small,) = gradients
        large, weight, patches = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is to find its way to the map that they were made of
            patches = None
        needs_large, needs_weight, needs_bias = _asked_for(ctx)
        return (
            _Scatter.apply(small, weight, None, ctx.stride, ctx.padding, large.shape[2:]) if needs_large else None,
            _correlate(small, large, weight, ctx.stride, ctx.padding, patches) if needs_weight else None,
            small.sum((0, 2, 3)) if needs_bias else None,
            *(None, None),
        )


class _Scatter(torch.autograd.Function):
    """small (B, S, h, w), weight (S, L, k, k), bias (L,) or None -> large (B, L, H, W) with (H, W) = sides."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(
        ctx: Any, small: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, sides: list[int]
    ) -> Tensor:
        ctx.save_for_backward(small, weight)
        ctx.stride, ctx.padding = stride, padding
        if weight.shape[1] <= THIN:
            return _scatter_thin(small, weight, bias, stride, padding, sides)
        extra = [
            large - ((side - 1) * stride - 2 * padding + weight.shape[2])
            for large, side in zip(sides, small.shape[2:], strict=True)
        ]
        large = functional.conv_transpose2d(small, weight, bias, stride, padding, extra)
        return large.contiguous(memory_format=torch.channels_last)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (large,) = gradients
        small, weight = ctx.saved_tensors
        needs_small, needs_weight, needs_bias = _asked_for(ctx)
        patches = of_small = None
        if needs_small or needs_weight:
            patches = _few_patches(large, weight, ctx.stride, ctx.padding)
        if needs_small and patches is not None:
            of_small = _gather_patches(patches, weight, None)
        elif needs_small:
            of_small = _Gather.apply(large, weight, None, ctx.stride, ctx.padding)
        return (
            of_small,
            _correlate(small, large, weight, ctx.stride, ctx.padding, patches) if needs_weight else None,
            large.sum((0, 2, 3)) if needs_bias else None,
            *(None, None, None),
        )


def _asked_for(ctx: Any) -> tuple[bool, bool, bool]:
    """Which gradients this backward pass is to give: of the maps, the weights and the bias.

    `needs_input_grad` tells which ones the graph can give. A pass through it may ask for fewer: the VAE's goes through
    the discriminator to the images alone.
    """
    functions = [function for function, _ in ctx.next_functions] + [None]  # there may be none of a bias
    needs_maps, needs_weight, needs_bias, *_ = ctx.needs_input_grad
    return (
        needs_maps and _will_run(functions[0]),
        needs_weight and _will_run(functions[1]),
        needs_bias and _will_run(functions[2]),
    )


def _will_run(function: Any) -> bool:
    try:
        return torch._C._will_engine_execute_node(function)
    except RuntimeError:  # of a leaf that torch.autograd.grad was asked for
        return True


def _scatter_thin(
    small: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, sides: list[int]
) -> Tensor:
    """What each pixel gives to each of its k² neighbours, in one product, then added up tap by tap."""
    n, _, height, width = small.shape
    channels, kernel = weight.shape[1], weight.shape[2]
    taps = weight.flatten(1).t() @ _rows(small).t()
    taps = taps.view(channels, kernel, kernel, n, height, width)
    padded = taps.new_zeros(channels, n, *(side + 2 * padding for side in sides))
    for row in range(kernel):
        for column in range(kernel):
            _shifted(padded, row, column, stride, height, width).add_(taps[:, row, column])
    large = padded[:, :, padding : padding + sides[0], padding : padding + sides[1]].transpose(0, 1)
    if bias is not None:
        large = large + bias[:, None, None]
    return large.contiguous(memory_format=torch.channels_last)


def _correlate(
    small: Tensor, large: Tensor, weight: Tensor, stride: int, padding: int, patches: Tensor | None = None
) -> Tensor:
    """The gradient of the weights (S, L, k, k), from one side's values and the other side's gradient.

    patches: of the large map, where they are at hand.
    """
    kernel, channels = weight.shape[2], large.shape[1]
    if channels <= THIN:
        height, width = small.shape[2:]
        padded = functional.pad(large.transpose(0, 1), [padding] * 4)
        taps = [
            _shifted(padded, row, column, stride, height, width) for row in range(kernel) for column in range(kernel)
        ]
        return (torch.stack(taps, 1).flatten(0, 1).flatten(1) @ _rows(small)).t().reshape(weight.shape)
    if patches is None and _patches_nbytes(large, weight, stride, padding) <= PATCHES_AT_MOST:
        patches = _patches(large, kernel, stride, padding)
    if patches is not None:
        product = _rows(small).t() @ patches.flatten(0, 2)
        return product.view(-1, kernel, kernel, channels).permute(0, 3, 1, 2)
    return torch.ops.aten.convolution_backward(
        *(small, large, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, [False, True, False])
    )[1]


def _gather_patches(patches: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The small map (B, S, h, w), of what each of its pixels sees."""
    return functional.linear(patches, weight.permute(0, 2, 3, 1).flatten(1), bias).permute(0, 3, 1, 2)


def _few_patches(large: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor | None:
    """The patches of maps of a few pixels of many channels, whose small maps a product gives sooner than oneDNN."""
    if weight.shape[1] <= THIN or _patches_nbytes(large, weight, stride, padding) > FEW_PATCHES:
        return None
    return _patches(large, weight.shape[2], stride, padding)


def _patches(large: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """(B, h, w, k·k·L): what each pixel of the small map sees of the large one."""
    padded = functional.pad(large.permute(0, 2, 3, 1), [0, 0, *[padding] * 4])
    return padded.unfold(1, kernel, stride).unfold(2, kernel, stride).permute(0, 1, 2, 4, 5, 3).flatten(3)


def _patches_nbytes(large: Tensor, weight: Tensor, stride: int, padding: int) -> int:
    """How much memory these patches take."""
    height, width = ((side + 2 * padding - weight.shape[2]) // stride + 1 for side in large.shape[2:])
    return len(large) * height * width * weight[0].nbytes


def _shifted(padded: Tensor, row: int, column: int, stride: int, height: int, width: int) -> Tensor:
    """(C, B, height, width): the pixels of the padded large map (C, B, …) that one tap of the kernel sees."""
    return padded[:, :, row : row + stride * height : stride, column : column + stride * width : stride]


def _rows(images: Tensor) -> Tensor:
    """(B·H·W, C): a row for each pixel."""
    return images.permute(0, 2, 3, 1).flatten(0, 2)
