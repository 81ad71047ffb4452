"""The synthetic outliers by name. Imports nothing heavy: names are checked before torch is loaded."""

SHIFTS = ("hflip", "vflip", "rot90", "invert", "noise", "blur", "contrast", "pixelate", "jpeg", "shuffle")

# From the mildest value of CIFAR-10-C (32 px), hard to see, to the gravest of ImageNet-C, gross (both: Hendrycks &
# Dietterich 2019, https://github.com/hendrycks/robustness). Blur goes on above CIFAR-10-C's 1 px, which is not gross,
# and grows with the side above 32 px: ImageNet-C's 6 px of 224 would be no more than 0.9 px of 32.
SEVERITIES: dict[str, tuple[float, ...]] = {
    "noise": (0.04, 0.08, 0.12, 0.18, 0.38),  # standard deviation, of the range of pixel values
    "blur": (0.4, 0.7, 1, 1.5, 2.5),  # standard deviation of the Gaussian, in pixels, at a side of up to 32
    "contrast": (0.75, 0.5, 0.3, 0.15, 0.05),  # factor on the distance from the image's mean
    "pixelate": (0.9, 0.75, 0.6, 0.4, 0.25),  # side in coarse pixels, of the side
    "jpeg": (80, 58, 40, 15, 7),  # quality, in percent
}


def shift_names(name: str) -> list[str]:
    """The shifts that a name stands for: "hflip" and "noise_3" for themselves, "noise" for noise_1 to noise_5.

    "shifts" stands for all; any other name for none.
    """
    if name == "shifts":
        return [shift for family in SHIFTS for shift in shift_names(family)]
    family, _, severity = name.partition("_")
    numbers = [str(number) for number in range(1, 1 + len(SEVERITIES.get(family, ())))]
    if name in SEVERITIES:
        return [f"{name}_{number}" for number in numbers]
    return [name] if name in SHIFTS or severity in numbers else []
