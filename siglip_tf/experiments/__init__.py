"""The machinery of recipes, in the order in which a run passes it:

    command      the command line of a recipe; `schema`, `config` and `checks` say what a setting may be
    run          one run; `run_folder` says whose folder it is
    inputs       data, preprocessing and first weights; `held_out` the part that training does not see
    build        settings to model, optimizer (`tuning` has its parameter groups) and data
    report       the end of a run: its figures, advice, and page
    plan         what `--dry-run` prints; `compiled` keeps what the TPU compiler said

The words: a *recipe* is a module of `recipes` with the values of an experiment; a *setup* is one of its variants; a
*setting* is one value by its dotted key, such as `optimizer.learning_rate`; a *run* is a recipe trained in a folder;
the *start* is the checkpoint that training begins with.

`command`, `schema`, `config`, `checks` and `recipe` import nothing heavy: a mistake in a setting is told before
TensorFlow is imported.
"""
