"""The settings of the plugin."""

from walmill_hookspecs import TableName, setting, settings

TARGET = TableName("{{ cookiecutter.package }}")


@settings
class Settings:
    """What a trigger of this plugin can be told with `--arg`."""

    target: TableName = setting("the table that is written", default=TARGET)
