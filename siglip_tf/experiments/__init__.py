"""Runs recipes. These are the modules, in the order in which a run uses them:

    command      the command line of a recipe; `schema`, `config`, and `checks` define which settings are valid
    run          one run; `run_folder` checks which run a folder belongs to
    inputs       data, preprocessing, and first weights; `held_out` is the part that training does not use
    build        builds the model, the optimizer (`tuning` has its parameter groups), and the data from settings
    report       the report at the end of a run: its figures, advice, and page
    plan         what `--dry-run` prints; `compiled` caches what the TPU compiler reports

Words used here: a *recipe* is a module of `recipes` with the values of an experiment. A *setup* is one of its variants.
A *setting* is one value with its dotted key, such as `optimizer.learning_rate`. A *run* is a recipe that is trained in
a folder. The *start* is the checkpoint that training begins with.

`command`, `schema`, `config`, `checks`, and `recipe` import nothing heavy, so that an invalid setting is reported
before TensorFlow is imported.
"""
