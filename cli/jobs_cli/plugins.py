"""Verbs that others add: plugins of the entry-point group `jobs.cli`.

They are looked for only if what was typed is no verb of ours, or asks for the list of verbs: to
look through all that is installed takes longer than many a verb.
"""

from cyclopts import App

from jobs_cli.output import say


def add_verbs(app: App) -> None:
    """Have every plugin add its verbs; one that cannot is told of, and the rest works."""
    from jobs_plugins.sources import CLI_GROUP, PluginError, installed, telling_slow

    for source in installed(CLI_GROUP):
        try:
            with telling_slow(source.name, _say_slow):
                plugin = source.load()
            plugin.jobs_cli(app)  # type: ignore[attr-defined]  # what is missing is its fault, told
        except PluginError as error:
            say(f"warning: {error}")
        except (Exception, SystemExit) as error:  # noqa: BLE001  # it is not ours, whatever it is
            say(
                f"warning: the plugin {source.name} ({source.origin}) cannot add its verbs: "
                f"{type(error).__name__}: {error}"
            )


def _say_slow(plugin: str) -> None:
    say(f"still loading the plugin {plugin}; Ctrl-C gives up")
