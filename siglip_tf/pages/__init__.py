"""HTML pages: one base template with a style for all pages of this project.

A page is a single file. Pictures are `data:` URLs, and nothing is loaded from other places. A template extends
`page.html`, fills its blocks `style`, `header`, and `content`, and may import the macros of `parts.html`:

    {% extends "page.html" %}
    {% from "parts.html" import tiles, bar %}
    {% block content %}{{ tiles(tiles_shown) }}{% endblock %}

    html = pages.render("report.html", package="siglip_tf.experiments", title="A run", tiles_shown=[...])
    storage.write_file("report.html", html)
"""

from siglip_tf.pages.render import data_url, render, share_text

__all__ = ["data_url", "render", "share_text"]
