"""The machinery of recipes: configuration, build, run, plan."""
