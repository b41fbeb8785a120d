"""Finds pictures in a folder by text or by another picture.

The modules are, in the order in which they process a picture: `index` embeds the pictures of a folder and stores the
vectors. `compression` makes them smaller. `neighbors` builds a graph for large folders. `tables` and `exchange` read
and write them for other tools. `scores` explains cosines to people. `server` and `page` show them in a browser.
`command` is the command line.
"""

from .command import main

__all__ = ["main"]
