"""Times calls in turn, lists their kernels, and writes tables."""

import time

import numpy as np


def measure(makers, rounds, deadline, to_profile):
    """(name -> what is known of it, name -> its kernels); "seconds" of each round in turn, or why it is "left_out"."""
    found, calls, kernels = {}, {}, {}
    for name, make in makers.items():
        if isinstance(make, str):
            found[name] = {"left_out": make}
            continue
        try:
            calls[name], found[name] = make()
            calls[name]()  # compiles what was not compiled
            found[name]["seconds"] = []
        except Exception as error:  # one that fails, for want of memory say, must not cost the others their turn
            calls.pop(name, None)
            found[name] = {"left_out": f"{type(error).__name__}: {str(error)[:300]}"}
    for _ in range(rounds):
        for name, call in calls.items():
            if time.monotonic() > deadline:
                return found, kernels
            start = time.perf_counter()
            call()
            found[name]["seconds"].append(time.perf_counter() - start)
    for name in set(to_profile) & set(calls):
        try:
            kernels[name] = profiled(calls[name])
        except Exception as error:  # torch or CUPTI is missing: the figures are worth more than the list
            kernels[name] = f"not profiled: {type(error).__name__}: {error}"
    return found, kernels


def profiled(call, top=30):
    """The kernels of one call, the dearest first, by CUPTI: lines of milliseconds, launches, and name."""
    import torch

    call()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        call()
        torch.cuda.synchronize()
    rows = sorted(((e.self_device_time_total / 1000, e.count, e.key) for e in profile.key_averages()), reverse=True)
    lines = [f"{sum(row[0] for row in rows):.2f} ms in {sum(row[1] for row in rows)} kernels"]
    return "\n".join(lines + [f"{ms:9.3f} ms {count:5d} x {name[:110]}" for ms, count, name in rows[:top]])


def table(title, found):
    """Markdown."""
    lines = [f"\n{title}\n", "| | median ms | temporary MB | largest error against float64 |", "|---|---|---|---|"]
    for name, row in found.items():
        if "left_out" in row:
            lines.append(f"| {name} | left out: {row['left_out']} | | |")
            continue
        time_ms = f"{1000 * np.median(row['seconds']):.1f}" if row["seconds"] else "no time left"
        memory = f"{row['temporary_megabytes']:,.0f}" if "temporary_megabytes" in row else ""
        worst = f"{max(row['errors'].values()):.1e}" if "errors" in row else ""
        lines.append(f"| {name} | {time_ms} | {memory} | {worst} |")
    return "\n".join(lines)
