"""The report of a run: `assessment` measures on the held-out part, beside a `baseline`; `advice` says what follows;
`page` and its `charts` show it; and `run_report` puts them together at the end of a run."""
