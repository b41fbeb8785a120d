"""Results of cells that were never computed, for tests of what is made of them."""

import random

from recipes.studies.cell import write_result
from recipes.studies.loss_probe import IMPLEMENTATIONS


def fill(studies, seeds, root, skip=0):
    """Writes an invented result for every cell, but for the first `skip`."""
    for study in studies:
        for number, cell in enumerate(study.cells(seeds)):
            if number >= skip:
                write_result(cell, root, invent(cell), 1.0)


def invent(cell):
    chance = random.Random(cell.key)
    if cell.kind == "memory":
        factor = 1 + list(IMPLEMENTATIONS).index(cell.settings["implementation"])
        return {"bytes": [n * n * 16 // factor for n in cell.settings["sizes"]]}
    if cell.kind == "choice":
        return {"chosen": cell.settings["options"][0], "figures": [0.5], "options": cell.settings["options"]}
    if cell.kind == "initial_loss":
        return {"losses": [10.0 + n / 1e4 for _, n in cell.settings["cases"]]}
    names = ("loss", "temperature", "bias", "gradient_norm", "update_norm", "positive_logit", "negative_logit")
    steps = [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
    curves = {"step": steps, **{name: [chance.uniform(1, 2) for _ in steps] for name in names}}
    languages = cell.settings["text"]["languages"]
    figures = ("zero_shot", "choosing", "held_out", "recall_at_1", "recall_at_5", "few_shot")
    parts = [*cell.settings.get("evaluate_at", ()), 1.0]
    evaluations = [
        {"step": round(20 * p), "examples": 1000 * p, **{name: chance.random() for name in figures}} for p in parts
    ]
    evaluations[-1]["by_language"] = {language: {name: chance.random() for name in figures} for language in languages}
    return {
        "steps": 20,
        "chosen": {"learning_rate": 0.003, "init_bias": -4.2} if "choice" in cell.settings else {},
        "parameters": 1000,
        "initial_loss": chance.uniform(5, 200),
        "diverged_at": None,
        "curves": curves,
        "evaluations": evaluations,
        "final": {**evaluations[-1], **{name: curves[name][-1] for name in names}},
    }
