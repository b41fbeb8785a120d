"""Finds pictures in a folder by text or by another picture.

Files, in the order in which a picture meets them: `index` embeds a folder's pictures and keeps the vectors,
`compression` makes them smaller, `neighbors` builds a graph for large folders, `tables` and `exchange` read and write
them for other tools, `scores` turns cosines into what a person reads, `server` and `page` show them in a browser, and
`command` is the command line.
"""

from .command import main

__all__ = ["main"]
