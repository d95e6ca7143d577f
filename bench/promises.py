"""What npzfs holds itself to, as ratios within one record. Told, never enforced."""

from dataclasses import dataclass

OURS, NATIVE, NUMPY, BARE, ENGINE = "npzfs", "native", "np.load(npz)", "bare fuser", "engine"


@dataclass(frozen=True)
class Promise:
    """`ours` over `against` (a row and a system; or nothing, for a plain number) within a bound."""

    text: str
    row: str
    against: tuple | None
    bound: float
    at_least: bool = False
    p99: bool = False


def promises():
    out = [
        Promise("cached scan within 5 % of native", "cached.scan", ("cached.scan", NATIVE), 0.95,
                at_least=True),
        Promise("cached rows within 5 % of native", "cached.rows", ("cached.rows", NATIVE), 1.05),
        Promise("stored, in sequence: 0.9 times a bare fuser", "stored.cat", ("stored.cat", BARE),
                0.9, at_least=True),
        Promise("stored, memory map: 0.9 times a bare fuser", "stored.scan", ("stored.scan", BARE),
                0.9, at_least=True),
        Promise("stored, random rows: 1.2 times a bare fuser", "stored.rows",
                ("stored.rows", BARE), 1.2),
        Promise("stored, random rows advised: 1.2 times a bare fuser", "stored.rows.advised",
                ("stored.rows.advised", BARE), 1.2),
        Promise("4 processes: 1.6 times the rows of one", "stored.rows.4", ("stored.rows.1", OURS),
                1.6, at_least=True),
    ]
    for how in ("cat", "load", "scan"):
        row = f"first.{{}}.{how}"
        out += [
            Promise(f"noise, {how}: 0.85 times the engine", row.format("noise"),
                    ("first.noise.cat", ENGINE), 0.85, at_least=True),
            Promise(f"sensor, {how}: 0.7 times the engine", row.format("sensor"),
                    ("first.sensor.cat", ENGINE), 0.7, at_least=True),
            Promise(f"sensor, {how}: 3 times np.load(npz)[key]", row.format("sensor"),
                    ("first.sensor.load", NUMPY), 3, at_least=True),
            Promise(f"labels, {how}: 0.8 times a bare fuser", row.format("labels"),
                    (row.format("labels"), BARE), 0.8, at_least=True),
        ]
    for kind in ("sensor", "labels", "noise"):
        row = f"rows.{kind}.saved"
        out += [
            Promise(f"{kind}, random rows with a saved index: median 600 us", row, None, 600),
            Promise(f"{kind}, random rows with a saved index: p99 3000 us", row, None, 3000,
                    p99=True),
        ]
    out += [Promise(f"decoded copy, {what}: within 5 % of native", row, (row, NATIVE), bound,
                    at_least)
            for row, what, bound, at_least in (
                ("copy.scan", "scan", 0.95, True), ("copy.rows", "rows", 1.05, False),
                ("copy.disk.scan", "scan, cold", 0.95, True),
                ("copy.disk.rows.advised", "rows, cold", 1.05, False))]
    for size, most in (("8K", 1.3), ("300K", 1), ("1300K", 1), ("16M", 1)):
        row = f"epochs.{size}.first"
        out.append(Promise(f"unchanged code, {size}, first epoch: {most} times np.load(npz)", row,
                           (row, NUMPY), most))
    for size in ("1300K", "16M"):
        row = f"epochs.{size}.second"
        out.append(Promise(f"unchanged code, {size}, second epoch: a fifth of np.load(npz)", row,
                           (row, NUMPY), 0.2))
    return [
        *out,
        Promise("first row with a saved index: 5 ms", "row.first.saved", None, 5),
        Promise("last row with a saved index: 5 ms", "row.last.saved", None, 5),
        Promise("list and stat of members: 2 times native", "many.list", ("many.list", NATIVE), 2),
        Promise("opening a member: 1.5 times native", "many.open", ("many.open", NATIVE), 1.5),
        Promise("walk, cold: 2 times native and its central directories", "tree.cold",
                ("tree.cold", NATIVE), 2),
        Promise("walk again: 1.2 times native", "tree.again", ("tree.again", NATIVE), 1.2),
        Promise("idle: no processor time", "idle.cpu", None, 0),
    ]


def judge(record):
    """Each promise with its figure: (text, figure or None, bound, held or None)."""
    cells = {(cell["row"], cell["system"]): cell for cell in record["cells"]}

    def figure(row, system, p99=False):
        cell = cells.get((row, system), {})
        return cell.get("p99" if p99 else "value")

    out = []
    for promise in promises():
        ours = figure(promise.row, OURS, promise.p99)
        base = figure(*promise.against) if promise.against else 1
        if ours is None or not base:
            out.append((promise.text, None, promise.bound, None))
            continue
        ratio = ours / base
        held = ratio >= promise.bound if promise.at_least else ratio <= promise.bound
        out.append((promise.text, ratio, promise.bound, held))
    last, engine = figure("row.last", OURS), figure("first.sensor.cat", ENGINE)
    if last and engine:
        pass_ms = record["sizes"]["rows"] * 4096 / engine / 1e3
        out.append(("last row without an index: the engine's first pass", last / pass_ms, 1,
                    last <= pass_ms))
    peaks = [cell["peak"] for cell in record["cells"] if cell["system"] == OURS and cell["peak"]]
    if peaks:
        out.append(("peak memory: 128 MiB", max(peaks), 128, max(peaks) <= 128))
    return out
