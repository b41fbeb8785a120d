"""HTML pages: one base template with its style for every page that this project writes.

A page is one file without links: pictures are `data:` URLs, and nothing is loaded from elsewhere. A template extends
`page.html`, fills its blocks `style`, `header` and `content`, and may import the macros of `parts.html`:

    {% extends "page.html" %}
    {% from "parts.html" import tiles, bar %}
    {% block content %}{{ tiles(tiles_shown) }}{% endblock %}

    html = pages.render("report.html", package="siglip_tf.experiments", title="A run", tiles_shown=[...])
    storage.write_file("report.html", html)
"""

from siglip_tf.pages.render import data_url, render, share_text

__all__ = ["data_url", "render", "share_text"]
