"""Does the test over seeds and cases err as often as it says, and what does the usual single-run test do?

    python benchmarks/calibration.py [--repetitions 2000] [--shapes 3x12,10x100] [--json FILE]

First the exact error rates of several methods for the normal model of `dsnet_med.evaluate.crossed`, over a grid
of variance ratios with its corners: given its mean squares the mean is normal, and they are independent
chi-squares, here from a Sobol sequence. Then tables of scores of two arms, drawn from worlds that are normal,
skewed or bounded: false positives at 5 % (true difference 0), how often the 95 % interval holds the truth (true
differences of 0, of the margin, of a wide margin), equivalence found where the difference is the margin,
verdicts withheld, and false positives of Wilcoxon's signed-rank test over the cases of one run of each arm.
Some minutes on one core.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr, stdtrit
from scipy.stats import chi2, qmc, wilcoxon

from dsnet_med.evaluate import crossed
from dsnet_med.evaluate.crossed import Squares

Values = NDArray[np.float64]
SHAPES = "3x12,3x32,3x100,5x12,5x32,5x100,10x12,10x32,10x100"
# Expected mean squares of seeds and of cases over that of the residual: 1 is no variance, 3000 no residual.
RATIOS = np.array([1, 1.25, 1.6, 2.2, 3.5, 6, 12, 30, 100, 3000.0])
CASES_SD = 0.08
MARGIN, WIDE = 0.01, 0.03


@dataclass(frozen=True)
class World:
    """How scores come about. Normal: standard deviations of an arm's seeds, of arm by case, of the residual."""

    name: str
    seeds: float
    arm_cases: float
    residual: float
    bounded: str = ""


WORLDS = (
    World("all three vary", 0.006, 0.01, 0.02),
    World("seeds do not vary", 0, 0.01, 0.02),
    World("all cases alike", 0.006, 0, 0.02),
    World("residual only", 0, 0, 0.02),
    World("no residual", 0.006, 0.01, 0),
    World("seeds only", 0.01, 0, 0),
    World("cases only", 0, 0.02, 0),
    World("seeds vary much", 0.03, 0.01, 0.02),
    World("cases vary much", 0.006, 0.05, 0.02),
    World("Dice, skewed (logit-normal)", 0.08, 0.25, 0.3, "logit"),
    World("... all cases alike", 0.1, 0, 0.4, "logit"),
    World("near 1, 1 - errors of a gamma law", 0.005, 0.5, 0.5, "gamma"),
    World("near 1, cut at 1", 0.01, 0.02, 0.03, "cut"),
    World("3 % zeros, any run of any case", 0.08, 0.25, 0.3, "zeros"),
    World("zeros in the hard cases", 0.08, 0.3, 0.4, "hard"),
    World("2 % of cases zero in all runs of an arm", 0.08, 0.25, 0.3, "arm"),
)


def draw(world: World, rng: np.random.Generator, shape: tuple[int, int, int], shift: float) -> Values:  # noqa: PLR0911
    """Scores (tables, 2 arms, seeds, cases); the second arm is better by `shift` on the scale of its world."""
    tables, seeds, cases = shape
    normal = rng.standard_normal
    case = normal((tables, 1, 1, cases))
    noise = world.seeds * normal((tables, 2, seeds, 1)) + world.residual * normal((tables, 2, seeds, cases))
    noise += world.arm_cases * normal((tables, 2, 1, cases)) + np.array([0, shift])[:, None, None]
    if not world.bounded:
        return 0.8 + CASES_SD * case + noise
    if world.bounded == "cut":
        return np.clip(0.95 + CASES_SD * case + noise, 0, 1)
    if world.bounded == "gamma":
        errors = 0.05 * rng.gamma(1.0, 1.0, (tables, 1, 1, cases)) * np.exp(-noise)
        return np.clip(1 - errors, 0, 1)
    latent = 2.4 + (1.2 if world.bounded == "hard" else 1.0) * case + noise
    scores = expit(latent)
    if world.bounded == "hard":
        return np.where(latent < 0, 0, scores)
    if world.bounded == "zeros":
        return scores * (rng.random((tables, 2, seeds, cases)) > 0.03)
    if world.bounded == "arm":
        return scores * (rng.random((tables, 2, 1, cases)) > 0.02)
    return scores


def differences(world: World, rng: np.random.Generator, shape: tuple[int, int, int], shift: float) -> Values:
    scores = draw(world, rng, shape, shift)
    return scores[:, 1] - scores[:, 0]


def shift_for(world: World, difference: float) -> float:
    """The shift that makes the true difference this; by bisection on one large sample for bounded worlds."""
    if not world.bounded:
        return difference
    low, high = 0.0, 8.0
    for _ in range(16):
        middle = (low + high) / 2
        found = differences(world, np.random.default_rng(0), (300, 2, 500), middle).mean()
        low, high = (middle, high) if found < difference else (low, middle)
    return high


def simulate(world: World, seeds: int, cases: int, repetitions: int) -> dict[str, float]:
    """The shares, in percent."""
    rng = np.random.default_rng(1000 * seeds + cases)
    found: dict[str, float] = {}
    for name, difference in (("null", 0.0), ("margin", MARGIN), ("wide", WIDE)):
        tables = differences(world, rng, (repetitions, seeds, cases), SHIFTS[world, difference])
        squares = crossed.mean_squares(tables)
        missed = np.abs(squares.mean - difference) > crossed.half_width(squares, seeds, cases, 0.05)
        found[f"missed, {name}"] = 100 * float(missed.mean())
        if difference:
            within = crossed.p_equivalence(tables, difference) < 0.05
            found[f"wrongly equivalent, {name}"] = 100 * float(within.mean())
        else:
            withheld = crossed.few_cases_decide(tables) & ~missed
            withheld &= crossed.p_equivalence(tables, MARGIN) >= 0.05
            found["withheld"] = 100 * float(withheld.mean())
            single = np.nan_to_num(wilcoxon(tables[:, 0], axis=1, method="approx").pvalue, nan=1.0)
            found["Wilcoxon"] = 100 * float((single < 0.05).mean())
    return found


def t2(df: Values | float, alpha: float) -> Values:
    return np.asarray(stdtrit(df, 1 - alpha / 2) ** 2)


def ours(squares: Squares, seeds: int, cases: int, alpha: float) -> Values:
    return seeds * cases * crossed.half_width(squares, seeds, cases, alpha) ** 2


def satterthwaite(squares: Squares, seeds: int, cases: int, alpha: float) -> Values:
    """The variance as estimated, a negative one as nearly zero."""
    variance = np.maximum(squares.seeds + squares.cases - squares.residual, 1e-3 * squares.residual)
    return variance * t2(np.maximum(_freedom(variance, squares, seeds, cases), 0.2), alpha)


def truncated(squares: Squares, seeds: int, cases: int, alpha: float) -> Values:
    """Satterthwaite with negative variances of seeds and of cases taken as zero."""
    above = Squares(
        squares.mean,
        np.maximum(squares.seeds, squares.residual),
        np.maximum(squares.cases, squares.residual),
        squares.residual,
    )
    variance = above.seeds + above.cases - above.residual
    return variance * t2(_freedom(variance, above, seeds, cases), alpha)


def _freedom(variance: Values, squares: Squares, seeds: int, cases: int) -> Values:
    both = (seeds - 1) * (cases - 1)
    parts = squares.seeds**2 / (seeds - 1) + squares.cases**2 / (cases - 1) + squares.residual**2 / both
    return np.asarray(variance**2 / parts)


def over_seeds(squares: Squares, seeds: int, _cases: int, alpha: float) -> Values:
    return squares.seeds * t2(seeds - 1, alpha)


def over_cases(squares: Squares, _seeds: int, cases: int, alpha: float) -> Values:
    return squares.cases * t2(cases - 1, alpha)


def both(squares: Squares, seeds: int, cases: int, alpha: float) -> Values:
    return np.maximum(over_seeds(squares, seeds, cases, alpha), over_cases(squares, seeds, cases, alpha))


def bootstrap(squares: Squares, seeds: int, cases: int, alpha: float) -> Values:
    """The variance of the mean when seeds and cases are resampled (Owen 2007), with normal limits."""
    parts = (seeds - 1) / seeds * squares.seeds + (cases - 1) / cases * squares.cases
    rest = (seeds - 1) * (cases - 1) / (seeds * cases) * squares.residual
    return (parts + rest) * t2(1e9, alpha)


METHODS: dict[str, Callable[[Squares, int, int, float], Values]] = {
    "ours": ours,
    "Satterthwaite": satterthwaite,
    "Satterthwaite, truncated": truncated,
    "t test over seeds": over_seeds,
    "t test over cases": over_cases,
    "both t tests": both,
    "bootstrap over both": bootstrap,
}


def exact(method: Callable[..., Values], seeds: int, cases: int, alpha: float, power: int = 11) -> Values:
    """False positives in percent for every pair of variance ratios."""
    uniform = np.clip(qmc.Sobol(3, seed=0).random_base2(power), 1e-9, 1 - 1e-9).T
    degrees = seeds - 1, cases - 1, (seeds - 1) * (cases - 1)
    by_seed, by_case, rest = (chi2.ppf(u, df) / df for u, df in zip(uniform, degrees, strict=True))
    ratios = RATIOS[:, None]
    rates = []
    for ratio in RATIOS:
        squares = Squares(
            np.zeros(1), ratio * by_seed[None], ratios * by_case, np.broadcast_to(rest, (10, len(rest)))
        )
        reach = np.sqrt(method(squares, seeds, cases, alpha) / (ratio + ratios - 1))
        rates.append(2 * ndtr(-reach).mean(axis=-1))
    return 100 * np.array(rates)


def span(values: Sequence[float] | Values) -> str:
    return f"{np.min(values):.1f} to {np.max(values):.1f}"


SHIFTS: dict[tuple[World, float], float] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    shapes = [
        (int(seeds), int(cases)) for seeds, cases in (name.split("x") for name in options.shapes.split(","))
    ]

    print("False positives in percent at 5 %, exact, least to most over the grid of variance ratios\n")
    print("| method |" + "".join(f" {a} x {b} |" for a, b in shapes) + "\n|---" + "|--:" * len(shapes) + "|")
    rates = {name: [exact(method, a, b, 0.05) for a, b in shapes] for name, method in METHODS.items()}
    for name, row in rates.items():
        print(f"| {name} | " + " | ".join(span(rate) for rate in row) + " |")
    for alpha in (0.01, 0.1):
        print(
            f"| ours at {100 * alpha:.0f} % | "
            + " | ".join(span(exact(ours, a, b, alpha)) for a, b in shapes)
            + " |"
        )

    for world in WORLDS:
        for difference in (0.0, MARGIN, WIDE):
            SHIFTS[world, difference] = shift_for(world, difference) if difference else 0.0
    found = {
        (world.name, a, b): simulate(world, a, b, options.repetitions) for world in WORLDS for a, b in shapes
    }
    columns = (
        "false positives at 5 %",
        "95 % interval holds",
        f"wrongly equivalent, margin {MARGIN}, at most",
        f"... {WIDE}",
        "verdict withheld, at most",
        "Wilcoxon, one run each",
    )
    for title, worlds in (
        ("Normal worlds, least to most over them", [world for world in WORLDS if not world.bounded]),
        ("Skewed and bounded worlds, least to most over them", [world for world in WORLDS if world.bounded]),
    ):
        print(
            f"\n{title}\n\n| seeds x cases | " + " | ".join(columns) + " |\n|---" + "|--:" * len(columns) + "|"
        )
        for a, b in shapes:
            print(f"| {a} x {b} | " + " | ".join(line([found[world.name, a, b] for world in worlds])) + " |")
    print(
        "\nEvery world, least to most over the shapes\n\n| world | "
        + " | ".join(columns)
        + " |\n|---"
        + "|--:" * len(columns)
        + "|"
    )
    for world in WORLDS:
        print(f"| {world.name} | " + " | ".join(line([found[world.name, a, b] for a, b in shapes])) + " |")
    if options.json:
        rows = [{"world": world, "seeds": a, "cases": b, **row} for (world, a, b), row in found.items()]
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def line(rows: Sequence[dict[str, float]]) -> list[str]:
    missed = [row[f"missed, {name}"] for row in rows for name in ("null", "margin", "wide")]
    return [
        span([row["missed, null"] for row in rows]),
        span([100 - one for one in missed]),
        f"{max(row['wrongly equivalent, margin'] for row in rows):.1f}",
        f"{max(row['wrongly equivalent, wide'] for row in rows):.1f}",
        f"{max(row['withheld'] for row in rows):.1f}",
        span([row["Wilcoxon"] for row in rows]),
    ]


if __name__ == "__main__":
    main()
