"""Finding images that do not belong to the training distribution.

Importing this package imports no torch: the detector is loaded when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

from advvae.outlier.scores import Evidence, named_scores, needs, usable_scores

if TYPE_CHECKING:
    from advvae.outlier.detector import find_outliers

__all__ = ["Evidence", "find_outliers", "named_scores", "needs", "usable_scores"]


def __getattr__(name: str) -> Any:
    if name == "find_outliers":
        from advvae.outlier.detector import find_outliers

        return find_outliers
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
