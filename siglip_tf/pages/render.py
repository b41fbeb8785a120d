"""Renders templates to text, and pictures to `data:` URLs."""

from __future__ import annotations

import base64
import functools
import math
import re
from typing import Any

_KINDS = ((b"\x89PNG", "png"), (b"GIF8", "gif"), (b"BM", "bmp"), (b"RIFF", "webp"))


def render(template: str, package: str | None = None, **values: Any) -> str:
    """Renders a page. Every value is escaped unless it is `markupsafe.Markup`.

    Args:
        template: a file in the package's folder `templates`.
        package: the package that contains the template. The default is this package, whose templates any package may
            extend.
        **values: the values that the template shows. `title` is the page's title.

    Returns:
        The text of the page.

    Raises:
        jinja2.TemplateNotFound: if there is no such template.
        jinja2.UndefinedError: if a value that the template needs is missing.
    """
    return _environment(package).get_template(template).render(**values)


@functools.cache
def _environment(package: str | None) -> Any:
    import jinja2

    loaders = [jinja2.PackageLoader(name) for name in (package, "siglip_tf.pages") if name is not None]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_url": data_url, "marked": marked, "share": share_text, "sigmoid": sigmoid}
    return environment


def data_url(picture: bytes) -> str:
    """Returns a `data:` URL of an encoded picture (PNG, GIF, BMP, WebP, or else JPEG), which a page can contain."""
    kind = next((name for magic, name in _KINDS if picture.startswith(magic)), "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"


def marked(text: str) -> str:
    """Converts code, bold, and emphasis in Markdown text to HTML, as `markupsafe.Markup`."""
    from markupsafe import Markup, escape

    html = str(escape(text))
    for mark, tag in ((r"`([^`]+)`", "code"), (r"\*\*([^*]+)\*\*", "b"), (r"\*([^*]+)\*", "i")):
        html = re.sub(mark, rf"<{tag}>\1</{tag}>", html)
    return Markup(html)


def sigmoid(logit: float) -> float:
    """Returns 1 / (1 + exp(-logit)) without overflow."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    return math.exp(logit) / (1 + math.exp(logit))


def share_text(share: float) -> str:
    """Formats a fraction in percent: "12.3%", or with two significant digits if it is below 10 % ("0.052%")."""
    percent = 100 * share
    if percent == 0 or abs(percent) >= 9.95:
        return f"{percent:.1f}%"
    if abs(percent) < 1e-6:
        return f"{percent:.0e}%"
    return f"{percent:.{max(1, 1 - math.floor(math.log10(abs(percent))))}f}%"
