"""Prints tables, and writes them and their plots for the documentation."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from measure import Sample, median, ratio
from peers import HERE, Peer
from tables import Table

DOCS = HERE.parent / "docs" / "benchmarks"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#777777")
Rows = list[list[str]]
Part = tuple[list[str], Rows]  # the heads of a table's columns, and its rows


def number(value: float) -> str:
    """Return three digits of a number, or all that stand before its point."""
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}" if value else "0"


def compared(table: Table, results: list[list[Sample]]) -> Part:
    heads = ["CPU µs", "least-greatest", "per CPU s", "ratio", "per s", "server", "client"]
    rows = []
    for peer, samples in zip(table.peers, results, strict=True):
        each = sorted(sample.micros for sample in samples)
        row = [peer.label, number(median(samples)), f"{number(each[0])}-{number(each[-1])}"]
        row += [f"{1e6 / median(samples):,.0f}", f"{ratio(samples, results[0]):.2f}"]
        row += [f"{median(samples, 'rate'):,.0f}"]
        row += [f"{median(samples, what):.0%}" for what in ("server_share", "client_share")]
        rows.append(row)
    return ["", *heads], rows


def pairs(table: Table, results: list[list[Sample]]) -> Part:
    by_label = {peer.label: samples for peer, samples in zip(table.peers, results, strict=True)}
    rows = [
        [label, base, f"{ratio(by_label[label], by_label[base]):.2f}"]
        for label, base in table.pairs
        if label in by_label and base in by_label
    ]
    return ["", "compared with", "ratio"], rows


def show(title: str, heads: list[str], rows: Rows) -> None:
    """Print a table, as wide as its contents."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    print(title)
    for row in heads, *rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        print("  ".join(cells).rstrip())
    print(flush=True)


def conditions(peers: Iterable[Peer], how: str) -> str:
    """Say how, when and where a table was measured, with which versions."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    models = [line.split(": ")[1] for line in cpuinfo.splitlines() if line.startswith("model name")]
    machine = f"{os.cpu_count()} cores of {models[0] if models else platform.machine()}"
    names = "aiopyramid-core a2wsgi aiohttp gevent granian gunicorn picows pyramid uvicorn uvloop"
    names += " uwsgi waitress websockets channels channels-redis django litestar redis starlette"
    versions: dict[str, str] = {}
    for peer in peers:
        versions |= peer.environment.versions()
    used = [f"{name} {versions[name]}" for name in names.split() if name in versions]
    return (
        f"{time.strftime('%Y-%m-%d')}, {how}, {machine}, "
        f"Linux {platform.release()}, Python {platform.python_version()}, {', '.join(used)}."
    )


def rst(heads: list[str], rows: Rows) -> str:
    kind = ["   :class: figures"] if rows[0][1][0].isdigit() else []
    lines = [".. list-table::", *kind, "   :header-rows: 1", ""]
    for row in heads, *rows:
        lines += [f"   {'* -' if i == 0 else '  -'} {cell}".rstrip() for i, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def write(name: str, title: str, parts: Sequence[Part], end: str, svg: str) -> None:
    """Write a section of the documentation, and its plot."""
    DOCS.mkdir(exist_ok=True)
    (DOCS / f"{name}.svg").write_text(svg)
    plot = f".. image:: benchmarks/{name}.svg\n   :alt: {title}\n"
    tables = [rst(*part) for part in parts if part[1]]
    # Not .rst, which Sphinx would take for a page.
    (DOCS / f"{name}.inc").write_text("\n".join([f"**{title}**\n", *tables, plot, f"{end}\n"]))


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: float, parts: list[str]) -> str:
    style = "text{font:13px sans-serif;fill:#222}"
    size = f'width="780" height="{height:.0f}" viewBox="0 0 780 {height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>'
    return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>\n"])


def bars(title: str, values: dict[str, float]) -> str:
    """Draw a bar for each value, with 1 as what it is compared with."""
    parts = [_text(10, 20, title)]
    scale = 300 / max(values.values())
    for i, (label, value) in enumerate(values.items()):
        y = 34 + 24 * i
        color = COLORS[0] if label.startswith("aiopyramid") else COLORS[-1]
        width = value * scale
        parts.append(f'<rect x="350" y="{y}" width="{width:.1f}" height="17" fill="{color}"/>')
        parts += [_text(342, y + 13, label, "end"), _text(355 + width, y + 13, f"{value:.2f}")]
    return _svg(44 + 24 * len(values), parts)


def lines(title: str, columns: Sequence[str], rows: dict[str, list[float]]) -> str:
    """Draw a line for each row; its scale is logarithmic."""
    values = [value for row in rows.values() for value in row]
    low, high = math.log10(min(values) / 1.2), math.log10(max(values) * 1.2)
    parts = [_text(10, 20, title)]

    def x_of(i: int) -> float:
        return 70 + 300 * i / (len(columns) - 1)

    def y_of(value: float) -> float:
        return 270 - 230 * (math.log10(value) - low) / (high - low)

    steps = (1, 2, 5) if high - low > 0.7 else (1, 1.5, 2, 3, 4, 5, 7)
    ticks = [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in steps]
    for tick in ticks:
        if low <= math.log10(tick) <= high:
            y = y_of(tick)
            parts.append(f'<path d="M70 {y:.1f}H370" stroke="#ddd"/>')
            parts.append(_text(62, y + 4, f"{tick:,g}", "end"))
    parts += [_text(x_of(i), 290, column, "middle") for i, column in enumerate(columns)]
    for i, (label, row) in enumerate(rows.items()):
        color = COLORS[i % len(COLORS)]
        path = "L".join(f"{x_of(j):.1f} {y_of(value):.1f}" for j, value in enumerate(row))
        parts.append(f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        y = 52 + 22 * i
        parts.append(f'<path d="M395 {y - 4}h20" stroke="{color}" stroke-width="3"/>')
        parts.append(_text(421, y, label))
    return _svg(300, parts)
