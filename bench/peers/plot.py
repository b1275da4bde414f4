#!/usr/bin/python3
"""Draws the ratios of `bench/peers/run -o json` as bars: Sinter's tokens a second over llama.cpp's.

usage: bench/peers/run -o json > peers.json; bench/peers/plot.py peers.json > peers.svg
"""
import json
import sys
from xml.sax.saxutils import escape

ROW, LABEL, WIDTH, LEFT, TOP = 26, 270, 460, 12, 58


def bars(report):
    """(name, median, least, most) of every row that compares speeds."""
    for row in report["rows"]:
        if "ratio" not in row:
            continue
        kind = "decode" if row["test"].startswith("tg") else f"prefill of {row['prompt']}"
        precision = "" if row["kind"] == "f32" else f", {row['precision']}"
        yield f"{row['model']} {row['kind']}{precision}, {kind}", row["ratio"], min(row["ratios"]), max(row["ratios"])


def draw(report):
    rows = list(bars(report))
    rounds = " or ".join(str(n) for n in sorted({row["rounds"] for row in report["rows"] if "ratio" in row}))
    scale = WIDTH / max(1.0, *(most for *_, most in rows))
    width, height = LEFT + LABEL + WIDTH + 60, TOP + ROW * len(rows) + 16
    x = LEFT + LABEL
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
           'font-family="sans-serif" font-size="13">',
           f'<rect width="{width}" height="{height}" fill="white"/>',
           f'<text x="{LEFT}" y="22" font-size="15">Tokens a second, Sinter / llama.cpp (1: as fast)</text>',
           f'<text x="{LEFT}" y="42" fill="#555">'
           + escape(f"{report['cpu']}, {report['cpus']} CPUs; {report['llama.cpp']}; median and range of "
                    f"{rounds} rounds in turn") + "</text>"]
    for i, (name, ratio, least, most) in enumerate(rows):
        y = TOP + ROW * i
        middle = y + ROW / 2 - 2
        out += [f'<text x="{x - 8}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>',
                f'<rect x="{x}" y="{y}" width="{ratio * scale:.1f}" height="{ROW - 8}" '
                f'fill="{"#2a7f62" if ratio >= 1 else "#b5532a"}"/>',
                f'<line x1="{x + least * scale:.1f}" x2="{x + most * scale:.1f}" y1="{middle}" y2="{middle}" '
                'stroke="black"/>',
                f'<text x="{x + most * scale + 6:.1f}" y="{middle + 4}">{ratio:.2f}</text>']
    one = x + scale
    out += [f'<line x1="{one:.1f}" x2="{one:.1f}" y1="{TOP - 6}" y2="{height - 12}" stroke="#888" '
            'stroke-dasharray="4 3"/>', "</svg>"]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__.strip())
    try:
        with open(sys.argv[1]) as file:
            drawn = draw(json.load(file))
    except OSError as error:
        sys.exit(f"plot.py: {sys.argv[1]}: cannot open: {error.strerror}")
    except (ValueError, KeyError, TypeError, AttributeError):
        sys.exit(f"plot.py: {sys.argv[1]}: not what `bench/peers/run -o json` prints")
    sys.stdout.write(drawn)
