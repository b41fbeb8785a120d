"""What a recipe is: the settings of its setups, a tiny run of it, and where its data and first weights come from.

A recipe module holds the values of an experiment and one `Recipe`; `siglip_tf.experiments.run.main` is the command that
runs it. Nothing here is heavy: a recipe's settings are read and checked before TensorFlow is imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from siglip_tf.experiments import config


@dataclasses.dataclass(frozen=True)
class Option:
    """A command line option that sets one setting.

    Attributes:
        setting: its key.
        help: for `--help`.
        form: how the option's text becomes the setting's, with one `{}`.
    """

    setting: str
    help: str
    form: str = "{}"


# Command line options of a recipe that trains on pictures and captions.
PAIRS = {
    "data": Option("data", "pictures and captions: tar, TFRecord or Parquet shards, a folder, a table, or tfds:NAME"),
    "tokenizer": Option("tokenizer", "a SentencePiece model file"),
}
NO_DATA = "Nothing to train on: name pictures and captions by --data, or use --synthetic for drawn scenes."

# Settings, the run's folder and whether the data is synthetic -> `siglip_tf.experiments.inputs.Prepared`.
Prepare = Callable[[ConfigDict, str, bool], Any]


def from_scratch(c: ConfigDict, folder: str, synthetic: bool) -> Any:
    """`prepare` of a recipe whose weights all start at random: pairs of `data`."""
    from siglip_tf.experiments import inputs

    return inputs.pairs(c, folder, synthetic)


def from_start(
    adopt: Callable[[ConfigDict], Any], tiny: Callable[[ConfigDict, str], str], hold_out: bool = False
) -> Prepare:
    """`prepare` of a recipe whose weights start from those of `start`: pairs of `data`, prepared as it says.

    Args:
        adopt: see `Recipe`; returns the checkpoint.
        tiny: settings and a folder -> a checkpoint that a synthetic run starts from where none is named.
        hold_out: whether a part of the data is held out of training.
    """

    def prepare(c: ConfigDict, folder: str, synthetic: bool) -> Any:
        from siglip_tf.experiments import inputs

        if synthetic and not c.start:
            c.start = tiny(c, f"{folder}/start")
        return inputs.pairs(c, folder, synthetic, adopt(c), hold_out=hold_out)

    return prepare


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A recipe as the command line runs it.

    Attributes:
        name: of its module.
        about: the module's docstring.
        setup: name of a setup -> its settings.
        setups: their names; the first is the default.
        synthetic: changes settings into those of a tiny run on synthetic data.
        prepare: settings, the run's folder and whether the data is synthetic -> data and first weights; may adapt the
            settings to a checkpoint or to the data.
        options: command line options of settings, by name.
        needs: settings that a run needs unless its data is synthetic -> what to say where one is missing.
        adopt: gives settings the architecture of the checkpoint that they name, if they do; the plan calls it.
        size: examples of the data that the settings name; by default those of its source.
        shape: settings, the keys that the command line named, and the number of pairs -> changes what must be known
            before the data are prepared, such as the size of pictures; called where the data are not synthetic.
        adapt: settings, the keys that the command line named, and the number of pairs (None for synthetic data) ->
            changes the other settings to suit the data; returns what was chosen and why, line by line.
        evaluations: evaluations on the held-out part while training, where the settings ask for none.
        synthetic_by_default: whether a run without `data` is a synthetic one.
        may_change: settings beside the usual ones that may change when the same run continues.
        ask_saved_model: the script that asks the exported model in a process of its own; None: nothing is exported.
    """

    name: str
    about: str
    setup: Callable[[str], ConfigDict]
    setups: Collection[str]
    synthetic: Callable[[ConfigDict], None]
    prepare: Prepare = from_scratch
    options: Mapping[str, Option] = dataclasses.field(default_factory=lambda: PAIRS)
    needs: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"data": NO_DATA})
    adopt: Callable[[ConfigDict], Any] | None = None
    size: Callable[[ConfigDict], int] | None = None
    shape: Callable[[ConfigDict, Collection[str], int], list[str]] | None = None
    adapt: Callable[[ConfigDict, Collection[str], int | None], list[str]] | None = None
    evaluations: int = 0
    synthetic_by_default: bool = False
    may_change: Collection[str] = ()
    ask_saved_model: str | None = None

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
            raise ValueError(f"Expected a setup of {self.name} among {', '.join(self.setups)}. Received: {name!r}")
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
                config.set_value(c, "duration", f"{int(value)} examples")
            else:
                config.set_value(c, key if key in config.flat(c) else f"model.{key}", value)
        return subject(c)
