"""Makes ``out/report.html`` and ``out/plot.png`` from the results in ``out``.

The page contains the plot and the videos, so it can be sent as one file.
"""

import base64
import json
import sys
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

OUT = Path("out")
NAMES = {"untrained": "untrained", "rollout": "trained"}  # of the files, and in the report

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222 }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } th, td { text-align: left; padding: 0.2rem 1.2rem 0.2rem 0 }
td.n, th.n { text-align: right } img { max-width: 100% }
figure { display: inline-block; margin: 0 1rem 0 0 }
"""


def draw(results: dict[str, Any], losses: Any) -> None:
    """Draw the losses, the ways of the pucks to the goal without and with training, and the latencies."""
    figure: Any = Figure(figsize=(13, 3.4), layout="constrained")
    loss, *ways, latency = figure.subplots(1, 4, width_ratios=(3, 4, 4, 3))
    loss.plot(losses, linewidth=0.5, color="lightgray")
    window = max(len(losses) // 50, 1)
    mean = np.convolve(losses, np.ones(window) / window, "valid")
    loss.plot(np.arange(len(mean)) + window / 2, mean)
    loss.set(title="training", xlabel="step", ylabel="mean squared error", yscale="log")
    for axes, (name, title) in zip(ways, NAMES.items(), strict=True):
        episodes = results[name]["episodes"]
        for episode in episodes:
            x, y = zip(*episode["puck"], strict=True)
            color = "tab:green" if episode["success"] else "tab:red"
            axes.plot(x, y, color=color, linewidth=0.8, alpha=0.7)
            axes.plot(x[0], y[0], ".", color=color, markersize=4)
        axes.plot(0, 0, "k+", markersize=12)
        axes.set(title=f"{title}: {results[name]['successes']} of {len(episodes)}")
        axes.set(xlabel="puck from the goal, m", xlim=(-0.45, 0.45), ylim=(-0.45, 0.45), aspect="equal")
    for number, (name, title) in enumerate(NAMES.items()):
        # While the executor is late, commands have another source.
        paths = [path for path in results[name]["paths"] if path["source"] == "sim/state"]
        found = [path[f"{key}_ms"] for path in paths for key in ("median", "p99", "worst")]
        bars = latency.bar(np.arange(len(found)) + 0.4 * number, found, width=0.38, label=title)
        latency.bar_label(bars, fmt="%.0f")
    latency.set_xticks(np.arange(3) + 0.2, ["median", "99 %", "worst"])
    latency.set(title="from the sensors to the arm", ylabel="ms")
    latency.margins(y=0.15)
    latency.legend(loc="upper left")
    figure.savefig(OUT / "plot.png", dpi=80)


def table(head: list[str], rows: list[list[Any]]) -> str:
    """Return a table of HTML; numbers stand on the right."""

    def cell(tag: str, value: Any) -> str:
        if isinstance(value, str):
            return f"<{tag}>{escape(value)}</{tag}>"
        return f'<{tag} class="n">{value}</{tag}>'

    lines = ["".join(cell("th", name) for name in head)]
    lines += ["".join(cell("td", value) for value in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def embedded(path: Path, kind: str) -> str:
    """Return the content of a file as a URL."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def success_rows(results: dict[str, Any]) -> list[list[Any]]:
    """Return a row for each rollout."""
    rows: list[list[Any]] = []
    for name, title in NAMES.items():
        episodes = results[name]["episodes"]
        seconds = [episode["seconds"] for episode in episodes if episode["success"]]
        rate = f"{results[name]['successes'] / len(episodes):.0%}"
        median = f"{np.median(seconds):.2f} s" if seconds else "none"
        rows.append([title, len(episodes), results[name]["successes"], rate, median])
    return rows


def path_rows(results: dict[str, Any]) -> list[list[Any]]:
    """Return a row for each path to the arm, as the dataflow has measured it."""
    return [
        [title, f"{path['source']} to {path['sink']}", path["messages"]]
        + [round(path[key], 1) for key in ("median_ms", "p99_ms", "worst_ms")]
        for name, title in NAMES.items()
        for path in results[name]["paths"]
    ]


def write(results: dict[str, Any], losses: Any) -> None:
    """Write the page."""
    videos = ""
    for name, title in NAMES.items():
        video = embedded(OUT / f"{name}.mp4", "video/mp4")
        videos += f'<figure><video controls loop muted width="380" src="{video}"></video>'
        videos += f"<figcaption>{title}</figcaption></figure>"
    plot = embedded(OUT / "plot.png", "image/png")
    took_over = results["rollout"]["takeovers"]
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Push the puck</title>',
        f"<style>{STYLE}</style>",
        "<h1>Push the puck to the goal</h1>",
        "<h2>Success</h2>",
        table(["policy", "episodes", "succeeded", "rate", "median time"], success_rows(results)),
        f"<p>Both began at the same places. A human took over {took_over} time(s) and gave back.</p>",
        f'<p><img alt="losses, ways of the puck, latencies" src="{plot}"></p>',
        f"<p>The loss fell from {losses[0]:.3f} to {np.mean(losses[-100:]):.3f}.</p>",
        "<h2>Videos</h2>",
        videos,
        "<h2>How long data takes from the sensors to the arm</h2>",
        table(["policy", "path", "messages", "median ms", "99 % ms", "worst ms"], path_rows(results)),
        "<p>As the dataflow measured it: through policy, executor and selector.</p></html>",
    ]
    (OUT / "report.html").write_text("\n".join(parts), encoding="utf-8")


def main() -> None:
    try:
        results = {name: json.loads((OUT / f"{name}.json").read_text()) for name in NAMES}
        losses = np.load(OUT / "losses.npy")
        draw(results, losses)
        write(results, losses)
    except FileNotFoundError as error:
        sys.exit(f"error: there is no {error.filename}; `python run.py` makes it")
    print(f"see {OUT / 'report.html'}")


if __name__ == "__main__":
    main()
