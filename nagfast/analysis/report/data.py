"""What a report shows: histograms, sums and a few documents. Its size does not grow with the pool."""

from __future__ import annotations

from dataclasses import dataclass, field

from nagfast.analysis.report.charts import Axis, Bins, Floats
from nagfast.schema import NagSpec


@dataclass(frozen=True)
class Domain:
    """Documents of the pool that belong together. Those without a NAG count, but have no distance."""

    name: str
    """Value of the domain column."""
    documents: int
    """Documents in the pool."""
    selected: int
    """Documents selected."""
    amount: int
    """What the documents add up to, in the unit of the report."""
    selected_amount: int
    """What the selected ones add up to."""
    nearest: float | None
    """Smallest distance; None where no document has a NAG."""
    median: float | None
    """Median distance."""
    farthest: float | None
    """Largest distance."""
    bins: Bins
    """Distances on the axis of the report."""
    layers: Floats | None
    """float64 [L], mean similarity of each layer to the profile; None where no document has a NAG."""


@dataclass(frozen=True)
class Document:
    """A document of the pool, for reading."""

    docid: str
    domain: str
    distance: float
    selected: bool
    text: str | None
    """The beginning of its text; None where there is none."""


@dataclass(frozen=True)
class ReportData:
    """All a report shows. Its size does not grow with the pool."""

    spec: NagSpec
    """How the NAGs were made."""
    num_targets: int
    """Target documents of the profile."""
    domains: tuple[Domain, ...] = ()
    """Every document of the pool is in one of them."""
    axis: Axis = field(default_factory=lambda: Axis(0.0, 1.0))
    """Distances of the histograms."""
    nearest: tuple[Document, ...] = ()
    """Nearest first."""
    farthest: tuple[Document, ...] = ()
    """Farthest first."""
    selected_range: tuple[float, float] | None = None
    """Smallest and largest distance of the selected documents; None where there are none."""
    layers_all: Floats | None = None
    """float64 [L], mean similarity of each layer over the pool."""
    layers_selected: Floats | None = None
    """float64 [L], the same over the selected documents."""
    unit: str = "documents"
    """What amounts count: tokens, bytes or documents."""
    budget: int | None = None
    """Amount the selection was allowed; None where that is not known."""
    provenance: dict[str, str] = field(default_factory=dict)
    """Where the data came from, to be shown as it is."""
    notes: tuple[str, ...] = ()
    """What a reader has to know to read the figures rightly."""
    target_texts: tuple[str, ...] = ()
    """A few target documents."""
    title: str = "What was selected, and why"

    def total(self, name: str) -> int:
        """Sum of a count over the domains."""
        return sum(getattr(domain, name) for domain in self.domains)
