"""Look of charts: text and lines take the colours of the page, light or dark."""

from __future__ import annotations

from typing import Any

__all__ = ["CONFIG"]

_TEXT = {"labelColor": "currentColor", "titleColor": "currentColor"}

CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        **_TEXT,
        "domainColor": "#8A8F94",
        "tickColor": "#8A8F94",
        "gridColor": "#8A8F94",
        "gridOpacity": 0.25,
        "labelFontSize": 12,
        "titleFontSize": 13,
        "titleFontWeight": "normal",
        "titlePadding": 10,
    },
    "legend": {**_TEXT, "labelFontSize": 13, "symbolSize": 90, "symbolOpacity": 1, "labelLimit": 0},
}
"""Vega-Lite configuration; ``currentColor`` is the text colour of the page."""
