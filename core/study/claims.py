"""Claims: what is said of early exits, and whether the tables of a study bear it out."""

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from pydantic import ConfigDict, TypeAdapter, ValidationError

from core.attacks.command import parse_length
from core.errors import ExitLensError
from core.study.measures import MEASURES, Tables, Unit, Where, describe, unit_weights
from core.study.resampling import has_enough_seeds, resample
from core.study.spec import policy_words
from core.study.store import Study, connect, read_study
from core.tables import TableSchema

if TYPE_CHECKING:
    import duckdb

CLAIMS_FILE = Path(__file__).parent / "claims.toml"
Direction = Literal["greater", "less", "not greater", "not less", "within"]
Verdict = Literal["holds", "does not hold", "undecided", "not measured"]
ALPHA = 0.05
MIN_IMAGES = 100  # in every comparison of a claim that is decided: of fewer, alike ones leave a bootstrap no width

CLAIMS = TableSchema(
    "claims",
    "one claim under one policy",
    {
        "claim": "text",
        "family": "text",
        "text": "text",
        "measure": "text",
        "policy": "text",
        "value": "number",
        "low": "number",
        "high": "number",
        "level": "number",
        "region": "text",
        "verdict": "text",
        "scope": "text",
        "policy_dependent": "truth",
        "num_comparisons": "whole",
        "num_images": "whole",
        "num_images_most": "whole",
    },
)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim, written down before it was measured.

    Attributes:
        name: Short.
        text: What is claimed, in one sentence.
        family: Claims that are adjusted for each other.
        study: Name of the study that measures it.
        measure: A key of ``MEASURES``.
        direction: Where the measure has to lie, seen from the reference.
        margin: How far beyond the reference; for ``within`` how far at most. A rate's is 0.02, a cost's 0.05.
        reference: What the measure is compared with.
        attacks: Presets that count; all of the study without.
        epsilons: That count; all of the study without.
        objective: Of early-exit sources.
        pairs: ``same`` or ``different`` architecture; both without.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    text: str
    family: str
    study: str
    measure: str
    direction: Direction
    margin: float
    reference: float = 0.0
    attacks: tuple[str, ...] = ()
    epsilons: tuple[str, ...] = ()
    objective: str = "taken"
    pairs: Literal["", "same", "different"] = ""

    def __post_init__(self) -> None:
        """Checks measure, direction and margin."""
        if self.measure not in MEASURES:
            raise ExitLensError(f"the claim {self.name} needs a measure out of {', '.join(MEASURES)}")
        if self.direction not in get_args(Direction) or self.margin <= 0:
            raise ExitLensError(f"the claim {self.name} needs a direction and a margin above 0")

    @property
    def bounds(self) -> tuple[float, float]:
        """Where the measure lies if the claim holds: between these two."""
        over, under = self.reference + self.margin, self.reference - self.margin
        return {
            "greater": (over, np.inf),
            "less": (-np.inf, under),
            "not greater": (-np.inf, over),
            "not less": (under, np.inf),
            "within": (under, over),
        }[self.direction]

    @property
    def region(self) -> str:
        """The same in words, such as ``above 2 %``."""
        low, high = (f"{100 * end:g}".replace("-", "−") for end in self.bounds)
        if np.isinf(self.bounds[1]):
            return f"above {low} %"
        return f"below {high} %" if np.isinf(self.bounds[0]) else f"between {low} and {high} %"

    def where(self, policy: str) -> Where:
        """The rows that count, under a policy."""
        epsilons = tuple(float(parse_length(text) or 0) for text in self.epsilons)
        return Where(policy, self.attacks, epsilons, self.objective, self.pairs)


@dataclass(frozen=True, eq=False)
class _Measured:
    """A claim's measure: what it is made of, and what it came to on images (and seeds) drawn again."""

    claim: Claim
    policy: str
    draws: np.ndarray
    units: list[Unit]

    @property
    def value(self) -> float:
        """The mean over the units, those that repeat each other counted as one; NaN without any."""
        if not self.units:
            return np.nan
        values = [unit.numerator.sum() / unit.denominator.sum() for unit in self.units]
        return float(np.average(values, weights=unit_weights(self.units)))

    @property
    def num_images(self) -> int:
        """Images that count, in the comparison with fewest."""
        return min((int((unit.denominator > 0).sum()) for unit in self.units), default=0)

    @property
    def chance(self) -> float:
        """Two-sided chance, over the draws, that the claim is decided the other way than it seems."""
        if self.num_images < MIN_IMAGES:
            return 1.0
        low, high = self.claim.bounds
        share = float(((self.draws > low) & (self.draws < high)).mean())
        return min(1.0, 2 * min(share, 1 - share) + 1 / (len(self.draws) + 1))


def load_claims(path: Path = CLAIMS_FILE) -> list[Claim]:
    """Reads the claims.

    Raises:
        ExitLensError: If the file is damaged or a claim cannot be measured.
    """
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
        claims = TypeAdapter(list[Claim]).validate_python(fields.get("claims", []))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ExitLensError(f"The claims {path} cannot be read ({error}).") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ExitLensError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error
    if len({claim.name for claim in claims}) < len(claims):
        raise ExitLensError(f"{path} names a claim twice.")
    return claims


def judge_claims(folder: Path, claims: Sequence[Claim] | None = None, seed: int = 0) -> pd.DataFrame:
    """Whether the claims of a study hold, under each of its policies: schema ``CLAIMS``; empty where none is about it.

    Intervals are percentile bootstraps over images that are drawn again for all models at once, so comparisons are
    paired. Where every kind of model is there with three training seeds or more, models are drawn again first;
    otherwise the verdict is one ``on these weights``. Levels are adjusted by Holm within each family and policy,
    counting all claims of the family, measured or not. A claim whose verdict turns from one policy to another is
    ``policy_dependent``. ``num_images`` are those that count in the comparison with fewest, ``num_images_most`` in
    that with most.

    Args:
        folder: Of the study.
        claims: Those to judge; without, the shipped ones that name this study.
        seed: Draws images.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 1979.
    """
    study, connection = read_study(folder), connect(folder)
    every = load_claims() if claims is None else claims
    chosen = [claim for claim in every if claim.study == study.spec.name]
    if not chosen:
        return pd.DataFrame(columns=list(CLAIMS.columns))
    num_in_family = Counter(claim.family for claim in every)
    units_of = {
        (policy.name, claim.name): _units(study, connection, claim, policy.name)
        for policy in study.spec.policies
        for claim in chosen
    }
    measurable = [key for key, units in units_of.items() if units]
    draws = dict(zip(measurable, resample([units_of[key] for key in measurable], seed), strict=True))
    rows = []
    for policy in study.spec.policies:
        measured = [
            _Measured(claim, policy.name, draws.get((policy.name, claim.name), np.array([])), units)
            for claim in chosen
            for units in [units_of[policy.name, claim.name]]
        ]
        levels = _levels(measured, num_in_family)
        rows += [_row(one, level) for one, level in zip(measured, levels, strict=True)]
    table = pd.DataFrame(rows)
    decided = table[table.verdict.isin(["holds", "does not hold"])].groupby("claim").verdict.nunique()
    table["policy_dependent"] = table.claim.map(decided).fillna(0) > 1
    return CLAIMS.check(table)


def _units(study: Study, connection: "duckdb.DuckDBPyConnection", claim: Claim, policy: str) -> list[Unit]:
    found = MEASURES[claim.measure](Tables(study, connection, claim.where(policy)))
    return [unit for unit in found if unit.denominator.any()]


def _levels(measured: Sequence[_Measured], num_in_family: Mapping[str, int]) -> list[float]:
    """The level at which each claim is judged: Holm's, within its family.

    The claim with the smallest chance is judged as one of all its family; each that is decided leaves one fewer for
    the next. From the first that is not decided on, all are judged as strictly as that one.
    """
    levels = dict.fromkeys(range(len(measured)), ALPHA)
    for family, size in num_in_family.items():
        left = size
        by_chance = sorted(
            (number for number, one in enumerate(measured) if one.units and one.claim.family == family),
            key=lambda number: measured[number].chance,
        )
        for number in by_chance:
            levels[number] = ALPHA / left
            left -= measured[number].chance <= ALPHA / left
    return [levels[number] for number in range(len(measured))]


def _row(one: _Measured, level: float) -> dict[str, object]:
    claim, low, high = one.claim, np.nan, np.nan
    verdict: Verdict = "not measured"
    if one.units:
        low, high = (float(end) for end in np.quantile(one.draws, (level / 2, 1 - level / 2)))
        verdict = judge(low, high, claim.bounds) if one.num_images >= MIN_IMAGES else "undecided"
    counts = [int((unit.denominator > 0).sum()) for unit in one.units]
    scope = "over training seeds" if one.units and has_enough_seeds(one.units) else "on these weights"
    if one.units and one.num_images < MIN_IMAGES:
        scope = f"too few images, {MIN_IMAGES} are needed"
    return {
        "claim": claim.name,
        "family": claim.family,
        "text": claim.text,
        "measure": describe(claim.measure),
        "policy": one.policy,
        "value": one.value,
        "low": low,
        "high": high,
        "level": 1 - level,
        "region": claim.region,
        "verdict": verdict,
        "scope": scope,
        "policy_dependent": False,
        "num_comparisons": len(one.units),
        "num_images": one.num_images,
        "num_images_most": max(counts, default=0),
    }


def interval_words(row: Mapping[str, Any]) -> str:
    """What was measured, as people read it: ``−20.9 % (−24.5 to −17.4 %)``; empty where nothing was.

    Args:
        row: Of schema ``CLAIMS``.
    """
    if not row["num_images"]:
        return ""
    value, low, high = (f"{100 * row[end]:+.1f}".replace("-", "−") for end in ("value", "low", "high"))
    return f"{value} % ({low} to {high} %)"


def count_words(row: Mapping[str, Any]) -> str:
    """How many images count in each comparison: ``n = 859``, or ``n = 843 to 906``; and how many comparisons there are.

    Args:
        row: Of schema ``CLAIMS``.
    """
    fewest, most = row["num_images"], row["num_images_most"]
    images = f"n = {fewest:,}" if fewest == most else f"n = {fewest:,} to {most:,}"
    several = f", the mean of {row['num_comparisons']} comparisons" if row["num_comparisons"] > 1 else ""
    return images + several


def first_policy(table: pd.DataFrame) -> pd.DataFrame:
    """Every claim once, under the study's first policy, with ``elsewhere``: what became of it under the others.

    Args:
        table: Schema ``CLAIMS``.
    """
    shown = table.drop_duplicates("claim").reset_index(drop=True)
    return shown.assign(elsewhere=[_elsewhere(table[table.claim == name]) for name in shown.claim])


def _elsewhere(rows: pd.DataFrame) -> str:
    """Such as ``the same under 3 other policies`` or ``does not hold under patience 3``."""
    verdict, others = rows.verdict.iloc[0], rows.iloc[1:]
    if others.empty or not rows.num_images.any():
        return ""
    turned = others[others.verdict != verdict]
    if turned.empty:
        return f"the same under {len(others)} other {'policy' if len(others) == 1 else 'policies'}"
    return "; ".join(
        f"{other} under {', '.join(map(policy_words, group.policy))}"
        for other, group in turned.groupby("verdict", sort=False)
    )


def judge(low: float, high: float, bounds: tuple[float, float]) -> Verdict:
    """The verdict on an interval: ``holds`` wholly within the bounds, ``does not hold`` wholly outside."""
    if bounds[0] < low and high < bounds[1]:
        return "holds"
    return "does not hold" if high <= bounds[0] or low >= bounds[1] else "undecided"
