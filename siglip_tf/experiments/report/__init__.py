"""The report of a run. `assessment` evaluates the model on the held-out part and compares it with a `baseline`.
`advice` says what to try next. `page` and its `charts` show the results. `run_report` does all this when a run ends."""
