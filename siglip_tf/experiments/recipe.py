"""What a recipe is: the settings of its setups, a tiny run of it, and where its data and first weights come from.

A recipe module holds the values of the paper and one `Recipe`; `siglip_tf.experiments.run` is the command that runs it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from siglip_tf.experiments import config as settings_module

# Command line options of a recipe that trains on pictures and captions.
PAIRS = {
    "data": "pictures and captions: tar, TFRecord or Parquet shards, a folder, a table, or tfds:NAME",
    "tokenizer": "a SentencePiece model file",
}

# Settings, the run's folder and whether the data is the embedded -> `siglip_tf.experiments.inputs.Prepared`.
Prepare = Callable[[ConfigDict, str, bool], Any]


def from_scratch(c: ConfigDict, folder: str, is_embedded: bool) -> Any:
    """`prepare` of a recipe whose weights all start at random: pairs of `data`."""
    from siglip_tf.experiments import inputs

    return inputs.pairs(c, folder, is_embedded)


def from_start(adopt: Callable[[ConfigDict], Any], tiny: Callable[[ConfigDict, str], str], missing: str) -> Prepare:
    """`prepare` of a recipe whose weights start from those of `start`: pairs of `data`, prepared as it says.

    Args:
        adopt: see `Recipe`; returns the checkpoint, or None where `start` names none.
        tiny: settings and a folder -> a checkpoint that a run on the embedded data starts from where none is named.
        missing: what to say where none is named.
    """

    def prepare(c: ConfigDict, folder: str, is_embedded: bool) -> Any:
        from siglip_tf.experiments import inputs

        if is_embedded and not c.start:
            c.start = tiny(c, f"{folder}/start")
        start = adopt(c)
        if start is None:
            raise ValueError(missing)
        return inputs.pairs(c, folder, is_embedded, start)

    return prepare


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A recipe as the command line runs it.

    Attributes:
        name: of its module.
        about: the module's docstring.
        setup: name of a setup -> its settings.
        setups: their names; the first is the default.
        embedded: changes settings into those of a tiny run on the embedded data.
        prepare: settings, the run's folder and whether the data is the embedded -> data and first weights; may adapt
            the settings to a checkpoint.
        options: settings that have a command line option of their own -> help.
        adopt: settings take the architecture of the checkpoint that they name, if they do; the plan calls it.
        size: examples of the data that the settings name; by default those of its source.
    """

    name: str
    about: str
    setup: Callable[[str], ConfigDict]
    setups: Collection[str]
    embedded: Callable[[ConfigDict], None]
    prepare: Prepare = from_scratch
    options: Mapping[str, str] = dataclasses.field(default_factory=lambda: PAIRS)
    adopt: Callable[[ConfigDict], Any] | None = None
    size: Callable[[ConfigDict], int] | None = None

    @property
    def command(self) -> str:
        return f"python -m recipes.{self.name}"

    def settings(self, name: str | None = None) -> ConfigDict:
        """The settings of a setup, the default one where none is named.

        Raises:
            ValueError: there is no such setup.
        """
        name = name or next(iter(self.setups))
        if name not in self.setups:
            raise ValueError(f"{self.name} has the setups {', '.join(self.setups)}. Received: {name!r}")
        return self.setup(name)

    def subject(self, setup: str | None = None, **overrides: Any) -> Any:
        """The recipe as `siglip_tf.tpu.Subject`, called inside the strategy's scope.

        Args:
            setup: one of `setups`.
            **overrides: arguments of `SigLIP`, other settings by their dotted key, or `examples` of the run.
        """
        from siglip_tf.experiments.plan import subject

        c = self.settings(setup)
        for key, value in overrides.items():
            if key == "examples":
                settings_module.set_value(c, "duration", f"{int(value)} examples")
            else:
                settings_module.set_value(c, key if key in settings_module.flat(c) else f"model.{key}", value)
        return subject(c)
