"""The base template of every page: escaping, and pictures inside the page."""

import base64

import jinja2
import pytest

from siglip_tf import pages


def test_values_are_escaped_and_the_base_holds_its_style():
    page = pages.render("page.html", title="<b> & so on")
    assert "<title>&lt;b&gt; &amp; so on</title>" in page and "<h1>&lt;b&gt; &amp; so on</h1>" in page
    assert "--ground" in page and "prefers-color-scheme" in page
    assert "http" not in page and "url(" not in page and "<script" not in page
    with pytest.raises(jinja2.UndefinedError):
        pages.render("page.html")
    with pytest.raises(jinja2.TemplateNotFound):
        pages.render("nothing.html", title="")


def test_a_picture_becomes_a_data_url_of_its_kind():
    cases = {b"\x89PNG12": "png", b"GIF89a": "gif", b"BM12": "bmp", b"RIFF1234WEBP": "webp", b"\xff\xd8\xff": "jpeg"}
    for data, kind in cases.items():
        head, _, body = pages.data_url(data).partition(",")
        assert head == f"data:image/{kind};base64"
        assert base64.b64decode(body) == data


def test_shares_are_shown_with_two_significant_digits():
    cases = {0.0: "0.0%", 1.0: "100.0%", 0.4567: "45.7%", 0.0123: "1.2%", 0.00052: "0.052%", 1e-12: "1e-10%"}
    assert {share: pages.share_text(share) for share in cases} == cases
