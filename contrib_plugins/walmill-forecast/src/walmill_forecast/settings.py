"""The settings of the plugin."""

from __future__ import annotations

from walmill_hookspecs import BadSettings, ColumnName, Duration, TableName, setting, settings

MOST = 20_000
"""Steps that are looked at or forecast; STL and ARIMA take seconds from there on."""


@settings
class ForecastSettings:
    """What is forecast."""

    table: TableName = setting("the table that is read")
    field: ColumnName = setting("the field that is forecast; a number")
    season: Duration = setting("what repeats itself, such as 1d or 7d; 0s for no season", default="1d", minimum="0s")
    step: Duration = setting("values are means over so long", default="1h", minimum="1s")
    history: Duration = setting("so far back is looked", default="14d")
    horizon: Duration = setting("so far ahead is forecast", default="1d")
    level: float = setting(
        "probability with which a value lies within the bounds", default=0.95, minimum=0.5, maximum=0.999
    )
    target: str = setting(
        "the table that is written; {table} stands for the one that is read", default="{table}_forecast"
    )
    tags: list[ColumnName] | None = setting(
        "a series for each value of these tags; of all tags if it is left out", default=None
    )
    filled: float = setting(
        "a series with values in less than this share of its steps is left out", default=0.5, minimum=0.01
    )
    max_series: int = setting("more series than this are refused: each takes up to a second", default=100, minimum=1)

    def __attrs_post_init__(self) -> None:
        for name, span, least in (
            ("season", self.season, 2),
            ("horizon", self.horizon, 1),
            ("history", self.history, 10),
        ):
            if span == 0 and name == "season":
                continue
            if span % self.step:
                raise BadSettings(f"{name}={span} is no multiple of step={self.step}")
            if not least <= span // self.step <= MOST:
                raise BadSettings(
                    f"{name}={span} has {span // self.step:,} steps of {self.step}; {least} to {MOST:,} can be"
                )
        if self.history < 2 * self.season:
            raise BadSettings(f"history={self.history} is less than two seasons of {self.season}: it would not show")
        if self.target_table == self.table:
            raise BadSettings(f"target={self.target!r} is the table that is read; name another one")

    @property
    def target_table(self) -> str:
        """The table that is written."""
        return self.target.replace("{table}", self.table)

    @property
    def steps_in_season(self) -> int:
        """Steps in a season; 1 without one."""
        return max(1, self.season // self.step)
