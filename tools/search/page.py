"""The search page: one HTML document with its style and its script, and a policy that does not allow any others."""

import base64
import hashlib
import re

from siglip_tf import pages

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="#2f55d4"/>'
    '<circle cx="7" cy="7" r="3.5" fill="none" stroke="#fff" stroke-width="1.6"/>'
    '<path d="M9.6 9.6 13 13" stroke="#fff" stroke-width="1.8" stroke-linecap="round"/></svg>'
)


def search_page(folder: str, pictures: int, sigmoid: bool, longest_query: int) -> tuple[str, str]:
    """Returns the page, and the value of the header Content-Security-Policy for every response of the server.

    Args:
        folder: the name of the folder to show.
        pictures: the number of pictures in the index.
        sigmoid: whether the model gives probabilities of single pairs.
        longest_query: the largest number of characters in a query.
    """
    html = pages.render(
        "search.html",
        title="Picture search",
        folder=folder,
        pictures=pictures,
        sigmoid=sigmoid,
        longest_query=longest_query,
    )
    policy = [
        "default-src 'none'",
        "connect-src 'self'",
        "img-src 'self' blob:",
        f"style-src {_hash_of('style', html)}",
        f"script-src {_hash_of('script', html)}",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
    return html, "; ".join(policy)


def _hash_of(tag: str, html: str) -> str:
    """Returns the hash that allows only the page's own style or script."""
    content = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"
