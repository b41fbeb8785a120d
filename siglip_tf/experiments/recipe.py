"""Defines a recipe: the settings of its setups, its synthetic run, and where its data and first weights come from.

A recipe module holds the values of an experiment and one `Recipe`, which `siglip_tf.experiments.command.main` runs.
This module does not import TensorFlow, because a recipe's settings are checked before that takes time.
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
        setting: the key of the setting.
        help: the text for `--help`.
        form: a format with one `{}` that turns the option's text into the setting's text.
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

# A function of the settings, the run's folder, and whether the data is synthetic. It returns a
# `siglip_tf.experiments.inputs.Prepared`.
Prepare = Callable[[ConfigDict, str, bool], Any]


def from_scratch(c: ConfigDict, folder: str, synthetic: bool) -> Any:
    """The `prepare` function of a recipe that trains all weights from random initial values on pairs of `data`."""
    from siglip_tf.experiments import inputs

    return inputs.pairs(c, folder, synthetic)


def from_start(
    adopt: Callable[[ConfigDict], Any], tiny: Callable[[ConfigDict, str], str], hold_out: bool = False
) -> Prepare:
    """Returns the `prepare` function of a recipe that begins with the weights and the preprocessing of `start`.

    Args:
        adopt: see `Recipe`. It returns the checkpoint.
        tiny: a function of the settings and a folder. It writes a small checkpoint, from which a synthetic run starts
            if no other is named, and returns its path.
        hold_out: whether to hold a part of the data out of training.
    """

    def prepare(c: ConfigDict, folder: str, synthetic: bool) -> Any:
        from siglip_tf.experiments import inputs

        if synthetic and not c.start:
            c.start = tiny(c, f"{folder}/start")
        return inputs.pairs(c, folder, synthetic, adopt(c), hold_out=hold_out)

    return prepare


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A recipe that the command line can run.

    Attributes:
        name: the name of the recipe's module.
        about: the docstring of the module.
        setup: a function of a setup's name that returns its settings.
        setups: the names of the setups. The first is the default.
        synthetic: a function that changes settings into those of a small run on synthetic data.
        prepare: a function of the settings, the run's folder, and whether the data is synthetic. It returns the data
            and the first weights, and may adapt the settings to a checkpoint or to the data.
        options: command-line options that set a setting, by name.
        needs: the settings that a run on real data needs, each with the error message if it is missing.
        adopt: a function that copies the architecture of the checkpoint that the settings name, if any, into the
            settings. The plan calls it.
        size: a function of the settings that returns the number of examples. By default it is the source's size.
        shape: a function of the settings, the keys that the command line named, and the number of pairs. It changes
            settings that are needed before the data are prepared, such as the image size. It is not called for
            synthetic data. It returns lines that explain the changes.
        adapt: a function of the settings, the keys that the command line named, and the number of pairs (None for
            synthetic data). It adapts the other settings to the data and returns lines that explain the changes.
        evaluations: the number of evaluations on the held-out part during training, if the settings ask for none.
        synthetic_by_default: whether a run without `data` uses synthetic data.
        may_change: further settings that may change when the same run continues.
        ask_saved_model: a script that queries the exported model in another process. None means that nothing is
            exported.
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
        """Returns the settings of a setup, by default the first one.

        Raises:
            ValueError: if there is no such setup.
        """
        name = name or next(iter(self.setups))
        if name not in self.setups:
            raise ValueError(f"Expected a setup of {self.name} among {', '.join(self.setups)}. Received: {name!r}")
        return self.setup(name)

    def subject(self, setup: str | None = None, **overrides: Any) -> Any:
        """Returns the recipe as a `siglip_tf.tpu.Subject`. Call it inside the strategy's scope.

        Args:
            setup: one of `setups`.
            **overrides: arguments of `SigLIP`, other settings by their dotted key, or `examples`, the length of the
                run.
        """
        from siglip_tf.experiments.plan import subject

        c = self.settings(setup)
        for key, value in overrides.items():
            if key == "examples":
                config.set_value(c, "duration", f"{int(value)} examples")
            else:
                config.set_value(c, key if key in config.flat(c) else f"model.{key}", value)
        return subject(c)
