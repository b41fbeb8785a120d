"""The search page in a real headless browser: search, enlarge, upload, labels. Needs chromium and chromedriver."""

import shutil
import threading

import pytest

from tests.example_model import example_model, pictures
from tools.search_index import Index, Towers
from tools.search_server import SearchServer

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
    from selenium import webdriver

    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in programs:
        pytest.fail("This test drives a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(programs[1]))
    browser.implicitly_wait(20)
    yield browser
    browser.quit()


def wait_for(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 60).until(condition)


def test_search_upload_and_labels(server, browser, tmp_path):
    def texts(selector):
        return [element.text for element in browser.find_elements("css selector", selector)]

    def loaded(driver):
        script = (
            "return [...document.querySelectorAll('#results img')].filter(i => i.complete && i.naturalWidth).length"
        )
        return driver.execute_script(script) == 14

    browser.get(f"http://localhost:{server.server_address[1]}/")
    wait_for(browser, lambda _: "14 pictures in" in browser.find_element("id", "about").text)
    query = browser.find_element("id", "query")
    query.send_keys("a red <b>circle</b>\n")
    wait_for(browser, loaded)
    vector = server.towers.texts(["a red <b>circle</b>"])[0]
    expected = [server.index.files[i].path for i, _ in server.index.search(vector, 60)]
    assert texts("#results .name") == expected
    assert all(text.startswith("match ") for text in texts("#results .score"))
    assert "“a red <b>circle</b>” · 14 pictures" in browser.find_element("id", "status").text
    browser.save_screenshot(str(tmp_path / "search.png"))

    browser.find_element("css selector", "#results button").click()
    wait_for(browser, lambda d: d.execute_script("return document.getElementById('large').naturalWidth") == 240)
    assert browser.find_element("id", "large-name").text == expected[0]
    browser.find_element("id", "close").click()

    browser.find_element("id", "file").send_keys(str(server.index.folder / "picture 3.png"))
    wait_for(browser, lambda _: "Like picture 3.png" in browser.find_element("id", "status").text)
    wait_for(browser, loaded)
    assert texts("#results .name")[0] == "picture 3.png"
    assert texts("#results .score")[0] == "cosine 1.00"
    browser.find_element("id", "labels").send_keys("a red circle\nblue square\n\nكلب")
    browser.find_element("css selector", "#label-form button").click()
    wait_for(browser, lambda _: len(texts("#label-results li")) == 3)
    rows = server.labels((server.index.folder / "picture 3.png").read_bytes(), ["a red circle", "blue square", "كلب"])
    assert texts("#label-results li span:first-child") == [row["label"] for row in rows]
    browser.save_screenshot(str(tmp_path / "upload.png"))

    (tmp_path / "bad.png").write_bytes(b"no picture")
    browser.find_element("id", "file").send_keys(str(tmp_path / "bad.png"))
    wait_for(browser, lambda _: "cannot be read" in browser.find_element("id", "status").text)

    # The refused upload is the only thing that the browser complains of.
    complaints = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert complaints
    assert all("415" in message for message in complaints), complaints
