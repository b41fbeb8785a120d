"""Folders of image files.

`layout` decides which files hold the captions. `tree` lists the files; `table`, `texts`, and `classes` read one kind of
layout each. `source` is the `FolderSource`, which reads the rows.
"""
