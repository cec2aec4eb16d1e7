"""The model: a season by STL, the rest by ARIMA. This module takes statsmodels along, which takes seconds to import."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from attrs import frozen
from statsmodels.tsa.arima.model import ARIMA
from statsmodels.tsa.forecasting.stl import STLForecast

from walmill_forecast.grid import Floats

ORDER = (1, 1, 1)


@frozen
class Forecast:
    """What comes next.

    Attributes:
        mean: The most likely value of each step.
        lower: The lower bound of each.
        upper: The upper bound.
    """

    mean: Floats
    lower: Floats
    upper: Floats


def forecast(values: Floats, *, season: int, steps: int, level: float) -> Forecast:
    """Forecasts a series.

    Args:
        values: Its values, evenly spaced, without gaps; at least two seasons.
        season: Steps in a season; 1 for none.
        steps: So many steps are forecast.
        level: Probability with which a value should lie within the bounds. They know the errors of the ARIMA part and of a season
            that repeats itself; that the season may change is not in them.

    Raises:
        ValueError: No model can be fitted.
    """
    if np.ptp(values) == 0:  # nothing to fit
        still = np.full(steps, values[-1])
        return Forecast(still, still, still)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how well it converged is not what bounds are made of
        try:
            found = _fitted(values, season).get_prediction(len(values), len(values) + steps - 1)
            bounds = found.summary_frame(alpha=1 - level)
        except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
            raise ValueError(f"no model can be fitted: {error}") from None
    mean = np.asarray(bounds["mean"], float)
    wider = _wider(len(values), season)
    columns = [
        mean,
        *(mean + wider * (np.asarray(bounds[name], float) - mean) for name in ("mean_ci_lower", "mean_ci_upper")),
    ]
    if not all(np.isfinite(column).all() for column in columns):
        raise ValueError("no model can be fitted: the forecast is not finite")
    return Forecast(*columns)


def _wider(count: int, season: int) -> float:
    """What the bounds of the rest lack for the season, which was estimated from the same values.

    A mean for each place of a season takes as many degrees of freedom as it has steps, and is itself only known to the error of
    a mean over the seasons that were seen.
    """
    if season == 1:
        return 1.0
    return float(np.sqrt(count / max(1, count - season) * (1 + season / count)))


def _fitted(values: Floats, season: int) -> Any:
    if season == 1:
        return ARIMA(values, order=ORDER).fit()
    cycles = len(values) // season
    width = max(7, 4 * cycles + 1)  # a narrow smoother takes noise for the season, and the bounds come out too narrow
    return STLForecast(values, ARIMA, model_kwargs={"order": ORDER}, period=season, seasonal=width, robust=True).fit()
