"""Image datasets: where they come from (sources), their prepared copy on disk (store), and their splits and batches.

Importing this package imports no torch: what needs it is loaded when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from advvae.data.source import Items, Source

if TYPE_CHECKING:
    from advvae.data.splits import Split, infer_channels, load_split

__all__ = ["Items", "Source", "Split", "infer_channels", "load_split"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("advvae.data.splits"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
