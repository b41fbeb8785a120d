"""Which record comes when, which worker reads it, where training stands, and what was broken."""
