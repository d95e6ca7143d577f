"""A record as text: one table a group, in Markdown, and what became of the promises."""

from promises import judge


def figure(number):
    """Three digits, without an exponent."""
    if number == 0:
        return "0"
    digits = 2 if abs(number) < 1 else 1 if abs(number) < 10 else 0
    return f"{number:.{digits}f}"


def factor(times):
    """How many times as fast: 0.43, or 1/12 where it is slow."""
    return f"1/{1 / times:.0f}" if times < 0.2 else figure(times)


def ratio(row, value, base):
    """How many times as fast as `base`."""
    if not value or not base:
        return None
    return value / base if row["higher_is_better"] else base / value


def text(cell, row, native):
    """A cell: its value, in brackets how many times as fast as native; or why there is none."""
    if cell is None:
        return ""
    if cell["value"] is None:
        return cell["note"] or "-"
    words = figure(cell["value"])
    if cell["p99"]:
        words += f" (p99 {figure(cell['p99'])})"
    times = ratio(row, cell["value"], native and native["value"])
    if times and cell is not native:
        words += f" [{factor(times)}]"
    return words


def tables(record):
    """All tables."""
    cells = {(cell["row"], cell["system"]): cell for cell in record["cells"]}
    out = []
    for group in dict.fromkeys(row["group"] for row in record["rows"]):
        rows = [row for row in record["rows"] if row["group"] == group]
        systems = [name for name in record["systems"]
                   if any((cells.get((row["id"], name)) or {}).get("value") is not None
                          for row in rows)]
        if not systems:
            continue
        out += [f"### {group}", "", "| | unit | " + " | ".join(systems) + " |",
                "|---" * (len(systems) + 2) + "|"]
        for row in rows:
            native = cells.get((row["id"], "native"))
            line = [text(cells.get((row["id"], name)), row, native) for name in systems]
            out.append(f"| {row['title']} | {row['unit']} | " + " | ".join(line) + " |")
        out.append("")
    notes = [f"{name}: {why}" for name, why in record["absent"].items()]
    for name in record["systems"]:
        own = [cell for cell in record["cells"] if cell["system"] == name]
        if own and all(cell["value"] is None for cell in own):
            notes.append(f"{name}: {own[0]['note']}")
    peaks = {}
    for cell in record["cells"]:
        if cell["peak"]:
            peaks[cell["system"]] = max(cell["peak"], peaks.get(cell["system"], 0))
    if peaks:
        out += ["### Peak memory of the server, all rows", "",
                "| " + " | ".join(peaks) + " |", "|---" * len(peaks) + "|",
                "| " + " | ".join(f"{figure(peak)} MiB" for peak in peaks.values()) + " |", ""]
    if notes:
        out += ["Not here: " + "; ".join(notes) + ".", ""]
    return "\n".join(out)


def verdicts(record):
    """One line for each promise."""
    lines = ["| promise | figure | bound | |", "|---|---|---|---|"]
    for words, value, bound, held in judge(record):
        said = {None: "not measured", True: "held", False: "MISSED"}[held]
        shown = "" if value is None else figure(value)
        lines.append(f"| {words} | {shown} | {bound} | {said} |")
    return "\n".join(lines)
