"""Forecasts of series that have a season, by STL and ARIMA of statsmodels, on a schedule."""
