"""Tables of medians, one for each workload."""

import statistics

from workloads import LATENCIES, SATURATED, VOLLEYS, WORKLOADS


def gathered(runs):
    """{workload: {contestant: {figure: its values, round by round}}}"""
    values = {}
    for run in runs:
        of_contestant = values.setdefault(run["workload"], {}).setdefault(run["contestant"], {})
        for figure, value in run["figures"].items():
            of_contestant.setdefault(figure, []).append(value)
    return values


def medians(contestants):
    """{contestant: {figure: median over the rounds}}, of one workload"""
    return {
        name: {figure: statistics.median(values) for figure, values in figures.items()}
        for name, figures in contestants.items()
    }


def saturation(row):
    """A flag on figures that say more about the generator, or the machine, than about the server."""
    if row["busy"] >= SATURATED:
        return ""
    others = f", others {row['others']:.0%}" if row["others"] > 0.03 else ""
    return f"(not saturated: {row['busy']:.0%}{others})"


def ratio(values, bases):
    """The median of what each round had to its base: what slows the machine for a while slows both alike."""
    quotients = [value / base for value, base in zip(values, bases or [])]
    return f"{statistics.median(quotients):.2f}" if quotients else "-"


def loads(rows, peers, rounds):
    """of `one`, `many`, `misses`"""
    best = max((name for name in peers if name in rows), key=lambda name: rows[name]["rate"], default=None)
    yield "", "requests/s", "CPU µs/request", "core busy", "generator", "CPU ÷ yardstick", "rate ÷ best peer", ""
    for name, row in rows.items():
        yield (
            name,
            f"{row['rate']:,.0f}",
            f"{row['cpu_us']:.2f}",
            f"{row['busy']:.0%}",
            f"{row['generator']:.0%}",
            ratio(rounds[name]["cpu_us"], rounds.get("yardstick", {}).get("cpu_us")),
            ratio(rounds[name]["rate"], rounds.get(best, {}).get("rate")),
            saturation(row),
        )


def latencies(rows, rate):
    """of `latency`"""
    yield "", "requests/s", *(f"{label} µs" for label in LATENCIES), ""
    for name, row in rows.items():
        short = row["rate"] < 0.98 * rate
        yield (
            name,
            f"{row['rate']:,.0f}",
            *(f"{row[label]:,.0f}" for label in LATENCIES),
            f"(below the rate of {rate:,})" if short else "",
        )


def volleys(rows):
    """of `coalesce`"""
    after, *others = VOLLEYS
    yield (
        "", "upstream requests", "its first answer ms", "its last ms", "median ms", "all ms",
        f"after its first: {after}", *others,
    )  # fmt: skip
    times = ("upstream_first_ms", "upstream_last_ms", "median_ms", "all_ms", *(f"{label}_after_ms" for label in VOLLEYS))
    for name, row in rows.items():
        yield name, f"{row['asked']:,.0f}", *(f"{row[time]:.1f}" for time in times)


def starts(rows):
    """of `start`"""
    yield "", "listens ms", "first miss answered ms", "first hit answered ms"
    for name, row in rows.items():
        yield name, *(f"{row[figure]:.1f}" for figure in ("listens_ms", "miss_ms", "hit_ms"))


def pairs(rows):
    """of `two`"""
    yield "", "CPU µs/request, 1 core", "2 cores", "busy of 200%", "requests/s, 1 core", "2 cores", "rate ×", ""
    for name, row in rows.items():
        rates = [row.get("rate_one"), row.get("rate_two")]
        measured = all(rates)
        yield (
            name,
            f"{row['cpu_us_one']:.2f}",
            f"{row['cpu_us_two']:.2f}",
            f"{row['busy_two']:.0%}",
            *(f"{rate:,.0f}" if measured else "" for rate in rates),
            f"{rates[1] / rates[0]:.2f}" if measured else "",
            "(not saturated)" if measured and row["busy_two"] < 2 * SATURATED else "",
        )


def millions(rows, rounds):
    """of `million`"""
    yield "", "CPU µs/request, one key", "a million keys", "a million ÷ one"
    for name, row in rows.items():
        lost = ratio(rounds[name]["cpu_us_all"], rounds[name]["cpu_us_one"])
        yield name, f"{row['cpu_us_one']:.2f}", f"{row['cpu_us_all']:.2f}", lost


def titled(workload, options):
    """What a workload is, in a line."""
    doc = WORKLOADS[workload][0].__doc__.strip().splitlines()[0]
    rate = f" ({options.rate:,}/s)" if workload == "latency" else ""
    return f"{workload}: {doc}{rate}"


def report(runs, peers, options):
    """All tables, as Markdown."""
    parts = []
    for workload, rounds in gathered(runs).items():
        rows = medians(rounds)
        kinds = {
            "latency": lambda: latencies(rows, options.rate),
            "coalesce": lambda: volleys(rows),
            "start": lambda: starts(rows),
            "two": lambda: pairs(rows),
            "million": lambda: millions(rows, rounds),
        }
        lines = list(kinds.get(workload, lambda: loads(rows, peers, rounds))())
        parts.append(f"{titled(workload, options)}\n\n{aligned(lines)}")
    return "\n\n".join(parts)


def aligned(lines):
    """A Markdown table, first column to the left, the others to the right."""
    used = [any(column[1:]) for column in zip(*lines)]
    lines = [[cell for cell, use in zip(line, used) if use] for line in lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(bordered(line, widths) for line in [lines[0], rule, *lines[1:]])


def bordered(line, widths):
    """A row of it."""
    first, *others = (cell.rjust(width) for cell, width in zip(line, widths))
    return " | ".join(["| " + first.strip().ljust(widths[0]), *others]) + " |"
