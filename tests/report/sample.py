"""Run folders as `hanse run` leaves them, made of drawn numbers: no training, no torch.

`python -m tests.report.sample DIR` writes them all, with their reports, to be looked at.
"""

import hashlib
import json
import math
import sys
from pathlib import Path

import numpy as np

from hanse.core.layout import Layout
from hanse.core.pipeline import Pipeline
from hanse.core.samplers import All, FixedSize
from hanse.core.spec import RunSpec
from hanse.core.step import Scalar
from hanse.core.weight import Weight
from hanse.core.work import LocalTraining
from hanse.privacy import Clip
from hanse.report.promises import promises, to_json
from hanse.strategies import fedprox

HOSPITALS = {"cleveland": 91, "hungary": 88, "switzerland": 37, "va-long-beach": 60}
WHY = "only one class: 37 positives, 0 negatives"
LEVELS = {
    "local": {"auc": 0.80, "accuracy": 0.74, "loss": 0.55},
    "federated": {"auc": 0.855, "accuracy": 0.79, "loss": 0.46},
    "pooled": {"auc": 0.86, "accuracy": 0.795, "loss": 0.45},
}
SHIFT = {"cleveland": 0.03, "hungary": 0.02, "switzerland": -0.06, "va-long-beach": -0.08}
LAYOUT = Layout.build("float32", [("weight", (928, 1), "trainable"), ("bias", (1,), "trainable")])
COUNTED = [Scalar(name, 2**32) for name in ("examples", "steps", "seen", "loss")]


def spec(name, clients, rounds, seed, *, metrics=("auc", "accuracy"), **more):
    """The spec of a run; ``more`` are fields of RunSpec."""
    sampler = more.pop("sampler", All())
    fields = {
        "strategy": fedprox(mu=0.1, sampler=sampler).settings(),
        "local": LocalTraining(lr=0.05, epochs=2),
        "pipeline": Pipeline([Weight(by="examples", cap=300), Clip(norm=1.0)]),
        "layout": LAYOUT,
    }
    return RunSpec(
        name=name,
        task="app:task",
        data="app:data",
        clients=tuple(clients),
        rounds=rounds,
        seed=seed,
        sampler=sampler,
        training=tuple(COUNTED),
        evaluation_scalars=tuple(Scalar(n, 2**32) for n in ("examples", "loss", *metrics)),
        **fields | more,
    )


def digest(*parts):
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def row(number, counted, **more):
    """One row of a history in which all went well."""
    return {
        "round": number,
        "seconds": 0.012,
        "cohort": len(counted),
        "counted": counted,
        "refused": {},
        "dropped": {},
        "late": {},
        "aborted": None,
        "train": {"loss": 0.40 + 0.3 * math.exp(-number / 8), "examples": 644, "steps": 42},
        "update": {"norm": 0.8 * math.exp(-number / 12) + 0.03, "longest": 1.0, "clipped": 0},
        "bytes": {"up": 3960 * len(counted), "down": 3840 * len(counted)},
        "evaluation": None,
        "central": None,
        **more,
    }


def measured(rng, level, progress, examples, shift=0.0, spread=0.008):
    """Metrics that start at a coin's and end around ``level``."""
    noise = rng.normal(0, spread, 3)
    return {
        "auc": float(min(0.5 + (level["auc"] + shift - 0.5) * progress + noise[0], 1)),
        "accuracy": float(min(0.5 + (level["accuracy"] + shift - 0.5) * progress + noise[1], 1)),
        "loss": float(0.69 - (0.69 - level["loss"] + shift) * progress + noise[2]),
        "examples": examples,
    }


def site_metrics(rng, kind, site, progress=1.0, spread=0.012):
    found = measured(rng, LEVELS[kind], progress, HOSPITALS[site], SHIFT[site], spread)
    if site == "switzerland":
        found |= {"auc": None, "undefined": {"auc": WHY}}
    return found


def heart_history(seed, rounds=40):
    rng = np.random.default_rng(seed)
    offset = {site: rng.normal(0, 0.02) for site in HOSPITALS}
    rows = []
    for number in range(1, rounds + 1):
        progress = 1 - math.exp(-number / 7)
        sites = {s: site_metrics(rng, "federated", s, progress, 0.006) for s in HOSPITALS}
        for site, found in sites.items():
            found["accuracy"] += offset[site]
            if found["auc"] is not None:
                found["auc"] += offset[site]
        pooled = measured(rng, LEVELS["federated"], progress, 276)
        longest = 1.4 * math.exp(-number / 14) + 0.2 + abs(rng.normal(0, 0.05))
        update = {
            "norm": 0.6 * math.exp(-number / 12) + 0.03,
            "longest": longest,
            "clipped": int(longest > 1) * int(rng.integers(1, 4)),
        }
        evaluation = {"pooled": pooled, "sites": sites}
        rows.append(row(number, sorted(HOSPITALS), update=update, evaluation=evaluation))
    return rows


def write(folder, described, rows, **files):
    """Write one seed's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    last = rows[-1]["evaluation"] or {} if rows else {}
    result = {
        "run": described.name,
        "spec_hash": described.hash,
        "model_digest": digest(described.hash, "model"),
        "engine": "exact",
        "rounds": len(rows),
        "seed": described.seed,
        "metrics": last.get("pooled", {}),
        "sites": last.get("sites", {}),
        "seconds": 1.9,
        "out": str(folder),
    }
    environment = {
        "python": "3.11.9",
        "platform": "Linux-6.1.0-x86_64-with-glibc2.36",
        "processor": "AMD EPYC 7763",
        "cores": 2,
        "versions": {"hanse": "0.1.0", "numpy": "2.4.6", "torch": "2.13.0+cpu"},
        "MKL_CBWR": "AVX2,STRICT",
        "threads": 1,
    }
    (folder / "spec.json").write_text(described.canonical)
    (folder / "spec.sha256").write_text(described.hash + "\n")
    (folder / "promises.json").write_text(json.dumps(to_json(promises(described))))
    (folder / "history.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for name, value in {"result": result, "environment": environment, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(value))


def heart(folder, seeds=5, rounds=40, baselines=True):
    """Four hospitals, several seeds, with baselines."""
    columns = {}
    for seed in range(7, 7 + seeds):
        rng, rows = np.random.default_rng(1000 + seed), heart_history(seed, rounds)
        kinds = {
            kind: {site: site_metrics(rng, kind, site) for site in HOSPITALS}
            for kind in ("local", "pooled")
        }
        kinds["federated"] = rows[-1]["evaluation"]["sites"]
        for kind, sites in kinds.items():
            for site, found in sites.items():
                for metric in ("auc", "accuracy", "loss"):
                    cell = columns.setdefault(site, {}).setdefault(kind, {})
                    cell.setdefault(metric, []).append(found[metric])
        out = folder if seeds == 1 else folder / f"seed-{seed}"
        files = {"population": heart_population()} | ({"baselines": kinds} if baselines else {})
        write(out, spec("heart", HOSPITALS, rounds, seed), rows, **files)
    if seeds > 1:
        listed = list(range(7, 7 + seeds))
        runs = [{"seed": s, "model_digest": digest(s), "out": f"seed-{s}"} for s in listed]
        table = {"seeds": listed, "metric names": ["auc", "accuracy"], "table": columns}
        (folder / "summary.json").write_text(json.dumps({**table, "runs": runs}))
    return folder


def heart_population():
    counts = {
        "cleveland": [164, 139],
        "hungary": [187, 106],
        "switzerland": [8, 115],
        "va-long-beach": [51, 149],
    }
    return population({site: np.array(c) for site, c in counts.items()}, ["healthy", "disease"])


def population(counts, classes):
    sizes = np.array([c.sum() for c in counts.values()])
    names = ("min", "q25", "median", "q75", "max")
    return {
        "clients": len(counts),
        "rows": int(sizes.sum()),
        "classes": classes,
        "sizes": dict(
            zip(names, np.quantile(sizes, (0, 0.25, 0.5, 0.75, 1)).tolist(), strict=True)
        ),
        "parts": [
            {"id": name, "n": int(c.sum()), "counts": c.tolist()}
            for name, c in list(counts.items())[:200]
        ],
    }


def crowd(folder, clients=1000, rounds=100, cohort=100, baselines=False):
    """A Dirichlet population of simulated clients, of which a cohort is asked each round."""
    rng = np.random.default_rng(3)
    ids = [f"client-{i}" for i in range(clients)]
    shares = rng.dirichlet(np.full(10, 0.5), clients)
    sizes = rng.integers(10, 100, clients)
    counts = {c: rng.multinomial(n, p) for c, n, p in zip(ids, sizes, shares, strict=True)}
    rows = [crowd_row(rng, ids, cohort, number) for number in range(1, rounds + 1)]
    described = spec(
        "digits",
        ids,
        rounds,
        3,
        population={"clients": clients, "partition": "dirichlet", "alpha": 0.5},
        metrics=["accuracy"],
        sampler=FixedSize(cohort),
    )
    files = {"population": population(counts, [str(k) for k in range(10)])}
    if baselines:
        files["baselines"] = {
            kind: {c: {"accuracy": float(rng.beta(8, 3) + s), "examples": 12} for c in ids}
            for kind, s in (("local", -0.2), ("federated", 0.0), ("pooled", 0.02))
        }
    write(folder, described, rows, **files)
    return folder


def crowd_row(rng, ids, cohort, number):
    picked = [ids[i] for i in rng.choice(len(ids), cohort, replace=False)]
    fates = rng.choice(4, size=cohort, p=[0.9, 0.05, 0.04, 0.01])
    groups = [[c for c, f in zip(picked, fates, strict=True) if f == k] for k in range(4)]
    progress = 1 - math.exp(-number / 20)
    pooled = {
        "accuracy": 0.1 + 0.78 * progress + rng.normal(0, 0.005),
        "loss": 2.3 - 1.9 * progress + rng.normal(0, 0.01),
        "examples": 10_000,
    }
    return row(
        number,
        sorted(groups[0]),
        cohort=cohort,
        dropped=dict.fromkeys(groups[1], "dropout"),
        late=dict.fromkeys(groups[2], "after the deadline of 10 s"),
        refused=dict.fromkeys(groups[3], "not finite: a coordinate is NaN, infinite, or overflows"),
        update={"norm": 0.3 * (1 - progress) + 0.02, "longest": 1.0, "clipped": cohort // 3},
        evaluation={"pooled": pooled, "sites": {}} if number % 5 == 0 else None,
        central={"accuracy": pooled["accuracy"] - 0.01, "loss": pooled["loss"] + 0.02}
        if number % 5 == 0
        else None,
    )


HOSTILE = '<script>alert("x")</script>'
RUDE = 'not finite: </svg><img src="https://evil.example/x.png" onerror=alert(1)>'


def trouble(folder, rounds=60):
    """One seed; refusals, dropouts, aborted rounds, n/a's, long and hostile names."""
    rng = np.random.default_rng(11)
    long = "st-elisabeth-university-hospital-of-the-northern-coast"
    names = ["aachen", "bremen", "danzig", HOSTILE, "lübeck", long, "riga", "visby\u202e"]
    rows = []
    for number in range(1, rounds + 1):
        fate = {name: float(rng.random()) for name in names}
        refused = {n: RUDE for n in names if n == HOSTILE and number % 7 == 0}
        refused |= {n: "out of range" for n in ("riga",) if 20 <= number <= 24}
        dropped = {n: "dropout" for n in names if fate[n] < 0.08 and n not in refused}
        late = {n: "after 12.5 s" for n in names if fate[n] > 0.95 and n not in refused}
        out = {*refused, *dropped, *late}
        progress = 1 - math.exp(-number / 15)
        sites = {
            n: {
                "auc": None if n == "riga" else 0.5 + 0.05 * i * progress,
                "loss": float("nan") if n == "danzig" else 0.7 - 0.03 * i * progress,
                "examples": 10 + i,
                "undefined": {"auc": "only one class: 3 positives, 0 negatives"}
                if n == "riga"
                else {},
            }
            for i, n in enumerate(names)
        }
        pooled = {"auc": 0.5 + 0.2 * progress, "loss": 0.69 - 0.1 * progress, "examples": 108}
        rows.append(
            row(
                number,
                sorted(n for n in names if n not in out),
                cohort=len(names),
                refused=refused,
                dropped=dropped,
                late=late,
                aborted="2 reports, 3 needed" if number in (31, 44) else None,
                train=None,
                evaluation={"pooled": pooled, "sites": sites} if number % 5 == 0 else None,
            )
        )
    described = spec(f"baltic {HOSTILE}", names, 80, 1)
    write(folder, described, rows, population={"clients": [{"id": n, "n": 40} for n in names]})
    return folder


if __name__ == "__main__":
    from hanse.report.html import write_report

    root = Path(sys.argv[1])
    for made in (
        heart(root / "heart"),
        heart(root / "heart-one", seeds=1),
        crowd(root / "crowd"),
        crowd(root / "crowd-baselines", clients=200, rounds=30, cohort=20, baselines=True),
        trouble(root / "trouble"),
    ):
        print(write_report(made))
