"""Whether a run has the config that is wanted."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from advvae.config import Config


def differing(wanted: Config, run: Mapping[str, Any], left_out: Iterable[str] = ()) -> list[str]:
    """The keys in which a run's config is not what is wanted; an older run has fewer keys."""
    names = [name for name in asdict(wanted) if name in run and name not in left_out]
    return [name for name in names if not _same(name, getattr(wanted, name), run[name])]


def _same(name: str, wanted: Any, had: Any) -> bool:
    """Whether a run has what is wanted, or has decided what was left open."""
    if isinstance(wanted, dict) and isinstance(had, dict):
        decided = ("window",) if wanted.get("percentiles") else ()
        return all(_same(key, value, had[key]) for key, value in wanted.items() if key in had and key not in decided)
    return wanted == had or (name, wanted) in (("precision", "auto"), ("channels", None))
