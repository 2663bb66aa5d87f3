"""report.html: what was selected and why, on one self-contained page.

collect reads store, profile, payload and selection in bounded memory, render makes the page, write_report the file.
"""

from pathlib import Path

from nagfast.analysis.report.collect import collect
from nagfast.analysis.report.data import Document, Domain, ReportData
from nagfast.analysis.report.page import render
from nagfast.files import atomic_write_text

__all__ = ["Document", "Domain", "ReportData", "collect", "render", "write_report"]


def write_report(path: Path | str, data: ReportData) -> None:
    """Write the page, whole or not at all.

    Raises:
        NagfastError: the file cannot be written.
    """
    atomic_write_text(path, render(data))
