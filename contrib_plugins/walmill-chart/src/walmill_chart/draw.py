"""Drawing: lines over time, as PNG or SVG. matplotlib's object interface, without pyplot: safe in several threads."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import frozen
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

DPI = 100
COLOURS = ("#2364aa", "#d1495b", "#3da35d", "#edae49", "#6f4e9c", "#00798c", "#8d5b3a", "#5c6770")


@frozen
class Curve:
    """One line: its name, its times (ns) and its values (NaN where there is none)."""

    name: str
    times: np.ndarray[Any, Any]
    values: np.ndarray[Any, Any]


def draw(
    curves: Sequence[Curve], *, width: int, height: int, title: str, shape: str, about: Mapping[str, str]
) -> bytes:
    """A picture of curves.

    Args:
        curves: The lines.
        width: Pixels.
        height: Pixels.
        title: A title; may be empty.
        shape: `png` or `svg`.
        about: Text that goes into the file: chunks of a PNG, the description of an SVG.
    """
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for number, curve in enumerate(curves):
        axes.plot(
            curve.times.astype("datetime64[ns]"),
            curve.values,
            color=COLOURS[number % len(COLOURS)],
            linewidth=1.2,
            marker="." if np.count_nonzero(~np.isnan(curve.values)) < 40 else None,
            label=curve.name,
        )
    axes.grid(visible=True, color="#d9dde2", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors="#3b4252", labelsize=9)
    if curves:
        locator = AutoDateLocator()  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        if len(curves) > 1 or curves[0].name:
            axes.legend(frameon=False, fontsize=9, loc="best")
    else:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center", color="#6b7280", fontsize=14)
        axes.set_xticks([])
        axes.set_yticks([])
    axes.set_xlabel("UTC", fontsize=8, color="#6b7280", loc="right")
    if title:
        axes.set_title(title, loc="left", fontsize=12, color="#20242c")
    sink = io.BytesIO()
    if shape == "svg":
        FigureCanvasSVG(figure)
        figure.savefig(
            sink, format="svg", metadata={"Description": " ".join(f"{k}={v}" for k, v in about.items()), "Date": None}
        )
    else:
        FigureCanvasAgg(figure)
        figure.savefig(sink, format="png", metadata=dict(about))
    return sink.getvalue()
