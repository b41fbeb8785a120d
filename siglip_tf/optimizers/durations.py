"""Durations in steps, examples, epochs, or percent of a run, and their conversion to steps."""

import dataclasses
import re
from collections.abc import Mapping

_UNITS = ("steps", "examples", "epochs", "percent")
_MULTIPLIERS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_TEXT = re.compile(r"^\s*(?P<number>[0-9][0-9_,]*(\.[0-9]+)?)\s*(?P<scale>[kKmMbB]?)\s*(?P<unit>[a-z]+|%)\s*$")


@dataclasses.dataclass(frozen=True)
class Duration:
    """A length of training: 65,000 steps, 40B examples, 3 epochs, or 10% of the run.

    Args:
        amount: the number of units, not negative.
        unit: "steps", "examples", "epochs", or "percent".

    Raises:
        ValueError: the unit is unknown, or the amount is negative.

    Source: the paper states durations in examples (section 4.6), steps (section 4.1), and epochs of WebLI.
    """

    amount: float
    unit: str = "steps"

    def __post_init__(self):
        if self.unit not in _UNITS:
            raise ValueError(f"Expected a duration's unit to be one of {_UNITS}. Received: unit={self.unit!r}")
        if isinstance(self.amount, bool) or not isinstance(self.amount, int | float) or not self.amount >= 0:
            raise ValueError(f"Expected a duration's amount to be a number >= 0. Received: amount={self.amount!r}")

    @classmethod
    def of(cls, value: "Duration | int | str | Mapping") -> "Duration":
        """Makes a duration from an int (steps), a text ("40B examples", "3 epochs", "10%"), or {"epochs": 3}.

        Raises:
            ValueError: the value has another form.
        """
        if isinstance(value, Duration):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return cls(value)
        if isinstance(value, Mapping) and len(value) == 1:
            ((unit, amount),) = value.items()
            return cls(amount, unit)
        if isinstance(value, str) and (match := _TEXT.match(value)):
            number = match["number"].replace("_", "").replace(",", "")
            amount = float(number) * _MULTIPLIERS[match["scale"].lower()]
            unit = "percent" if match["unit"] == "%" else match["unit"]
            unit = unit if unit in _UNITS else f"{unit}s"
            return cls(int(amount) if amount.is_integer() else amount, unit)
        raise ValueError(
            "Expected a duration as a number of steps, a text such as '65k steps', '40B examples', '3 epochs' or "
            f"'10%', or a mapping such as {{'epochs': 3}}. Received: {value!r}"
        )

    def to_steps(
        self,
        global_batch_size: int | None = None,
        examples_per_epoch: int | None = None,
        total_steps: int | None = None,
    ) -> int:
        """Returns the nearest whole number of steps, which is at least 1 unless the amount is 0.

        Args:
            global_batch_size: pairs per step over all replicas; required for examples and epochs.
            examples_per_epoch: pairs in the data set; required for epochs.
            total_steps: steps of the whole run; required for percent.

        Raises:
            ValueError: an argument that this unit requires is missing; the message names it.
        """

        def needed(name: str, value: int | None) -> int:
            if not value or value < 0:
                raise ValueError(
                    f"A duration in {self.unit} needs {name} > 0 to become steps. Received: {name}={value}"
                )
            return value

        steps: float = self.amount
        if self.unit == "percent":
            steps = steps / 100 * needed("total_steps", total_steps)
        if self.unit in ("examples", "epochs"):
            batch = needed("global_batch_size", global_batch_size)
            steps *= needed("examples_per_epoch", examples_per_epoch) if self.unit == "epochs" else 1
            steps /= batch
        return max(1, round(steps)) if self.amount else 0

    def __str__(self) -> str:
        return f"{self.amount:,g}%" if self.unit == "percent" else f"{self.amount:,} {self.unit}"
