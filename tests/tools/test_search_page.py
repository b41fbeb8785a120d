"""The search page in a real headless browser: search, enlarge, upload, labels. Needs chromium and chromedriver."""

import threading

import pytest

from tests.browser import chromium
from tests.example_model import example_model, pictures
from tools.search.index import Index, Towers
from tools.search.server import SearchServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for i, data in enumerate(pictures(14, size=(180, 240))):
        (folder / f"picture {i}.{'png' if i % 2 else 'jpg'}").write_bytes(data)
    towers = Towers(example_model())
    index = Index(folder)
    index.update(towers, "tiny")
    with SearchServer(index, towers, port=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def browser():
    with chromium("--window-size=1280,900") as browser:
        browser.implicitly_wait(20)
        yield browser


def wait_for(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 60).until(condition)


def texts(browser, selector):
    return [element.text for element in browser.find_elements("css selector", selector)]


def loaded(driver):
    script = "return [...document.querySelectorAll('#results img')].filter(i => i.complete && i.naturalWidth).length"
    return driver.execute_script(script) == 14


def focused(browser):
    return browser.execute_script("return document.activeElement.title || document.activeElement.id")


def press(browser, *keys):
    from selenium.webdriver.common.action_chains import ActionChains

    for key in keys:
        ActionChains(browser).send_keys(key).perform()


def complaints(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def status(browser):
    return browser.find_element("id", "status").text


def test_search_upload_and_labels(server, browser, tmp_path):
    browser.get(f"http://localhost:{server.server_address[1]}/")
    wait_for(browser, loaded)  # pictures before anything was asked
    assert "14 pictures in" in browser.find_element("id", "about").text
    assert "Some of the pictures · 14 pictures" in status(browser)
    assert {*texts(browser, "#results .score")} == {""}
    query = browser.find_element("id", "query")
    query.send_keys("a red <b>circle</b>\n")
    wait_for(browser, lambda _: "“a red <b>circle</b>” · 14 pictures" in status(browser))
    wait_for(browser, loaded)
    vector = server.towers.texts(["a red <b>circle</b>"])[0]
    expected = [server.index.files[i].path for i, _ in server.index.search(vector, 60)]
    assert texts(browser, "#results .name") == expected
    scores = texts(browser, "#results .score")
    assert all(text.startswith(f"{rank} · match ") for rank, text in enumerate(scores, 1))
    browser.save_screenshot(str(tmp_path / "search.png"))

    browser.find_element("css selector", "#results button").click()
    wait_for(browser, lambda d: d.execute_script("return document.getElementById('large').naturalWidth") == 240)
    assert browser.find_element("id", "large-name").text == expected[0]
    explanation = browser.find_element("id", "large-score").text
    assert explanation.startswith("Rank 1 of 14. The cosine with the text is ")
    assert "judged alone" in explanation
    browser.save_screenshot(str(tmp_path / "viewer.png"))
    browser.find_element("id", "close").click()

    browser.find_element("id", "file").send_keys(str(server.index.folder / "picture 3.png"))
    wait_for(browser, lambda _: "Like picture 3.png" in status(browser))
    wait_for(browser, loaded)
    assert texts(browser, "#results .name")[0] == "picture 3.png"
    assert texts(browser, "#results .score")[0] == "1 · cosine 1.00"
    browser.find_element("id", "labels").send_keys("a red circle\nblue square\n\nكلب")
    browser.find_element("css selector", "#label-form button").click()
    wait_for(browser, lambda _: len(texts(browser, "#label-results li")) == 3)
    rows = server.labels((server.index.folder / "picture 3.png").read_bytes(), ["a red circle", "blue square", "كلب"])
    assert texts(browser, "#label-results li span:first-child") == [row["label"] for row in rows]
    browser.save_screenshot(str(tmp_path / "upload.png"))

    (tmp_path / "bad.png").write_bytes(b"no picture")
    browser.find_element("id", "file").send_keys(str(tmp_path / "bad.png"))
    wait_for(browser, lambda _: "cannot be read" in status(browser))

    # The refused upload is the only thing that the browser complains of: its policy allows the page's own script.
    found = complaints(browser)
    assert found
    assert all("415" in message for message in found), found


def test_address_and_keys(server, browser):
    from selenium.webdriver.common.keys import Keys

    address = f"http://localhost:{server.server_address[1]}/"
    browser.get(f"{address}?q=blue%20square")
    wait_for(browser, lambda _: "“blue square”" in status(browser))
    wait_for(browser, loaded)
    assert browser.find_element("id", "query").get_attribute("value") == "blue square"
    names = texts(browser, "#results .name")
    columns = browser.execute_script(
        "const tops = [...document.querySelectorAll('#results li')].map(i => i.getBoundingClientRect().top);"
        "return tops.filter(top => top === tops[0]).length"
    )
    assert focused(browser) == "query"
    press(browser, Keys.ARROW_DOWN)
    assert focused(browser) == names[0]
    press(browser, Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert focused(browser) == names[1 + columns]
    press(browser, Keys.ARROW_UP, Keys.ENTER)
    wait_for(browser, lambda _: browser.find_element("id", "large-name").text == names[1])
    press(browser, Keys.ARROW_RIGHT)
    wait_for(browser, lambda _: browser.find_element("id", "large-name").text == names[2])
    assert browser.find_element("id", "large-score").text.startswith("Rank 3 of 14.")
    press(browser, Keys.ESCAPE)
    wait_for(browser, lambda _: focused(browser) == names[2])
    press(browser, "/")
    assert focused(browser) == "query"
    press(browser, "a green triangle", Keys.ENTER)
    wait_for(browser, lambda _: "“a green triangle”" in status(browser))
    assert browser.current_url == f"{address}?q=a+green+triangle"

    wait_for(browser, loaded)
    browser.find_element("css selector", "#results button").click()
    browser.find_element("id", "like").click()
    wait_for(browser, lambda _: status(browser).startswith("Like picture"))
    assert "?like=picture" in browser.current_url
    assert texts(browser, "#results .score")[0] == "1 · cosine 1.00"
    browser.back()
    wait_for(browser, lambda _: "“a green triangle”" in status(browser))
    browser.back()
    wait_for(browser, lambda _: "“blue square”" in status(browser))
    browser.get(f"{address}?like=nothing.jpg")
    wait_for(browser, lambda _: "no such picture in the index" in status(browser))
    assert all("404" in message for message in complaints(browser))
