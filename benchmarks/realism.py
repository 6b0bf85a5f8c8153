"""How real the synthetic ground is: the same statistics of real and of synthetic series, in one table.

``python benchmarks/realism.py --data ../shared/data --out runs/realism`` prints and writes ``table.md``. No classifier
is trained. All numbers come from labeled fields and clear pixels, from March to October (Tanzania: all dates).

- *Within fields*: standard deviation of reflectance over the inner pixels of a field (one pixel from its border) on
  one date; median over fields, bands and dates. Bands of 10 m and 20 m stay on their own pixels.
- *Between fields of one crop*: standard deviation of the means of three or more fields of one crop on one date;
  median over crops, bands and dates.
- *Spatial autocorrelation*: correlation of inner pixels with those one or three pixels to the east and south, about
  the mean of the field (Moran's I with these neighbors); median over fields of 60 inner pixels or more, and dates.
- *Temporal noise*: distance of a clear observation of a pixel from its smooth curve, which is a local linear
  regression of the other clear observations (Cleveland, 1979; Gaussian weights of 12 days, two rounds of bisquare
  weights). Scaled median absolute deviation. Its *share common to a field* is the variance of the means of fields as
  a part of the whole, its *autocorrelation* that of successive clear observations at most 15 days apart; both with
  residuals cut at three deviations.
- *Called clear*: share of the observations that the mask of the product calls clear (scene classes 4 to 7 of Sen2Cor;
  ``pixel_qa`` of Landsat). *Days between*: between successive clear observations of a pixel.
- *Haze left*: share of clear observations whose blue lies more than 0.02 above the curve. *Shadow left*: near infrared
  more than a fifth below it.
- *Pixels at an edge*: share of the pixels of fields with other ground among their four neighbors. *Sharpness*: the
  step of near infrared from one such pixel to the next, across the border of two fields, as a part of the difference
  of their means; 1 if borders are sharp and lie where the labels say.
- *End of season*: deviation, among fields of one annual crop, of the day on which the smoothed NDVI has fallen half-way
  from its peak (as in TIMESAT: Jönsson and Eklundh, 2004); scaled median absolute deviation, for ten or more fields.
  The number of France is that of winter wheat in 2023 (``worldcereal_france_2023``), from monthly means.

Noise, haze and shadow are measured where eight or more dates have a curve, so not on the Landsat series of Flanders.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from realism_data import farmland, france, land_cover, wheat_points, worldcereal, worldcereal_landsat
from realism_statistics import GROUPS, measure, season_end, spread

from agrifm.sensors import LANDSAT, S2

ROWS = {
    **{f"within {name}": (f"within fields, SD of reflectance, {name}", ".4f") for name in GROUPS},
    **{f"between {name}": (f"between fields of one crop, SD of reflectance, {name}", ".4f") for name in GROUPS},
    "lag 1": ("spatial autocorrelation within fields, NIR, 1 pixel", ".2f"),
    "lag 3": ("spatial autocorrelation within fields, NIR, 3 pixels", ".2f"),
    **{f"noise {name}": (f"temporal noise of a pixel, {name}", ".4f") for name in GROUPS},
    "common": ("temporal noise: share common to a field, NIR", ".2f"),
    "noise lag": ("temporal noise: autocorrelation, NIR", ".2f"),
    "clear": ("observations called clear", ".0%"),
    "gaps": ("days between clear observations, median", ".0f"),
    "long gaps": ("days between clear observations, p90", ".0f"),
    "haze left": ("called clear, but haze left", ".1%"),
    "shadow left": ("called clear, but shadow left", ".1%"),
    "edges": ("pixels of fields at an edge", ".0%"),
    "sharpness": ("sharpness of edges, NIR", ".2f"),
    "ends": ("end of season among fields of one crop, SD in days", ".0f"),
}


def table(found: dict[str, dict[str, float]]) -> str:
    """Statistics along rows, sets along columns, as Markdown."""
    lines = [f"| statistic | {' | '.join(found)} |", "|---|" + "---:|" * len(found)]
    for key, (title, style) in ROWS.items():
        cells = [title]
        for result in found.values():
            number = result.get(key, np.nan)
            cells.append(format(number, style) if np.isfinite(number) else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def wheat_season(data: Path) -> float:
    """Deviation of the end of season among points of winter wheat."""
    ends = [season_end(days, ndvi) for days, ndvi in wheat_points(data)]
    return spread({0: [float(end) for end in ends if end is not None]})


def main() -> None:
    """Read the command line, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/realism"))
    parser.add_argument("--chips", type=int, default=12, help="chips of the synthetic farmland")
    parser.add_argument("--samples", type=int, default=40, help="samples of the synthetic land covers")
    asked = parser.parse_args()
    found = {
        "Flanders 2018": measure([worldcereal(asked.data, "be_a_2018", 2018)]),
        "Flanders 2019": measure([worldcereal(asked.data, "be_b_2019", 2019)]),
        "Tanzania 2021": measure([worldcereal(asked.data, "tz_d_2021", None)]),
        "France 2018": measure([france(asked.data)], of_dates=False),
        "farmland": measure(farmland(S2, asked.chips)),
        "land covers": measure(land_cover(asked.samples)),
        "Landsat: Flanders 2018": measure([worldcereal_landsat(asked.data)]),
        "Landsat: farmland": measure(farmland(LANDSAT, asked.chips)),
    }
    found["France 2018"]["ends"] = wheat_season(asked.data)
    text = table(found)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
