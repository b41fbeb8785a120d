"""Folders of image files: `layout` decides which files say the captions (`tree` lists them; `table`, `texts`, and
`classes` read one kind each), and `source` is the `FolderSource` of the rows."""
