"""Text of strangers made safe to show, and numbers made easy to read."""

from __future__ import annotations

__all__ = ["clean", "count", "decimal", "duration", "percent", "points", "rounded", "share", "size"]

CAPTION_CHARACTERS = 280
_CONTROL = {code: chr(0x2400 + code) for code in range(32)} | {0x7F: "\u2421"}
_CONTROL |= dict.fromkeys(range(0x80, 0xA0), "\ufffd")
_CONTROL |= {0x0A: " \u23ce ", 0x0D: "", 0x09: " "}


def clean(text: str, limit: int = CAPTION_CHARACTERS) -> str:
    """Text in which every character shows: control characters as pictures, lone surrogates replaced, cut at ``limit``.

    It is not escaped for HTML; the template does that.
    """
    cut = text[:limit]
    whole = cut.encode("utf-8", "replace").decode("utf-8").translate(_CONTROL).strip()
    return whole + "\u2026" if len(text) > limit else whole


def count(value: int | float) -> str:
    """``1,234,567``."""
    return f"{value:,}"


def percent(part: float, whole: float) -> str:
    """``12.3%``; what is not nothing never reads 0, what is not all never reads 100."""
    if not whole:
        return "\u2013"
    share = 100.0 * part / whole
    if 0 < share < 0.05:
        return "<0.1%"
    if 99.95 <= share < 100:
        return ">99.9%"
    return f"{share:.1f}%" if 0 < share < 100 else f"{share:.0f}%"


def size(value: int) -> str:
    """Bytes in decimal units, three digits: ``999 B``, ``1.2 MB``, ``2,345 TB``."""
    if value < 1000:
        return f"{value:,} B"
    amount = float(value)
    for unit in ("kB", "MB", "GB", "TB"):
        amount /= 1000
        if amount < 999.5:
            return f"{amount:.3g} {unit}"
    return f"{amount:,.0f} TB"


def duration(seconds: float) -> str:
    """``0.42 s``, ``12.3 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def share(value: float | None) -> str:
    """``54.6%`` of 0.546; a dash for None."""
    return "\u2013" if value is None else f"{100 * value:.1f}%"


def points(value: float | None) -> str:
    """A difference of shares in percentage points, with its sign: ``+10.3``; a dash for None."""
    if value is None:
        return "\u2013"
    return "0.0" if abs(value) < 0.0005 else f"{100 * value:+.1f}".replace("-", "\u2212")


def decimal(value: float | None) -> str:
    """Four digits that count; a dash for None."""
    return "\u2013" if value is None else f"{value:.4g}"


def rounded(value: float | None) -> str:
    """A whole number; a dash for None."""
    return "\u2013" if value is None else f"{value:,.0f}"
