"""A headless Chromium for the tests of pages; its console log is at hand."""

import contextlib
import shutil

import pytest


@contextlib.contextmanager
def chromium(*arguments: str):
    """A selenium driver; the test fails with what to install where there is no Chromium."""
    from selenium import webdriver

    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in programs:
        pytest.fail("This test drives a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(programs[1]))
    try:
        yield driver
    finally:
        driver.quit()
