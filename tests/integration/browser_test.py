"""The live page and the report in a real browser: Debian's Chromium, without a window."""
import contextlib
import os
import shutil
import sys
import unittest

from harness import FederationTest, run

# Debian's python3-selenium is seen by Debian's own Python alone.
sys.path.append("/usr/lib/python3/dist-packages")
try:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait
except ImportError:
    webdriver = None

ASKED = os.environ.get("QUANTFL_ALL") == "1" or os.environ.get("QUANTFL_SCREENSHOTS")
MISSING = next((f"{program} is not installed" for program in ("chromium", "chromedriver")
                if not shutil.which(program)), None) or (None if webdriver else "python3-selenium is not installed")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


def browser(width, height, dark=False):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--hide-scrollbars", "--disable-background-networking"):
        options.add_argument(argument)
    # A window is never narrower than 500 pixels; a phone is emulated.
    options.add_experimental_option("mobileEmulation", {"deviceMetrics": {
        "width": width, "height": height, "pixelRatio": 1, "mobile": width < 500}})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(service=Service(shutil.which("chromedriver")), options=options)
    if dark:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia",
                               {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    return contextlib.closing(Quitting(driver))


class Quitting:
    """A driver whose close ends the browser too."""

    def __init__(self, driver):
        self.driver = driver

    def close(self):
        self.driver.quit()


@unittest.skipUnless(ASKED, "starts browsers: tests/run.sh --all")
@unittest.skipIf(MISSING, MISSING)
class Browser(FederationTest):
    def look(self, driver, name):
        """No complaint of the browser, every picture drawn, nothing wider than the screen."""
        complaints = [e for e in driver.get_log("browser") if "favicon" not in e["message"]]
        self.assertEqual(complaints, [])
        width, window = driver.execute_script(
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        self.assertLessEqual(width, window, f"{name}: the page scrolls sideways")
        blank = driver.execute_script("""
            return [...document.querySelectorAll('canvas')].filter((c) => c.offsetParent !== null)
              .filter((c) => c.width === 0 || !c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v) => v))
              .map((c) => c.id)""")
        self.assertEqual(blank, [], f"{name}: pictures that are empty")
        folder = os.environ.get("QUANTFL_SCREENSHOTS")
        if folder:
            size = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
            # A window as high as the page, and two frames for the pictures to follow it.
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
                "width": int(size["width"]), "height": int(size["height"]), "deviceScaleFactor": 1,
                "mobile": size["width"] < 500})
            driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
            shot = driver.execute_cdp_cmd("Page.captureScreenshot", {})
            import base64
            os.makedirs(folder, exist_ok=True)
            with open(f"{folder}/{name}.png", "wb") as f:
                f.write(base64.b64decode(shot["data"]))

    def test_the_live_page_shows_a_new_round_without_a_reload(self):
        process, ready = self.coordinator(self.config(name="live", round__rounds=8, evaluation__enabled=False))
        web = ready["web"].strip('"')
        with contextlib.ExitStack() as open_browsers:
            pages = {}
            for name, size in SIZES.items():
                pages[name] = open_browsers.enter_context(browser(*size)).driver
                pages[name].get(web)
                pages[name].execute_script("window.loadedOnce = true")
                self.assertIn("round 0 of 8", pages[name].find_element(By.ID, "phase").text)
            for i in range(4):
                self.synthetic(ready["federation"], f"pi-{i}", "--first-index", i)
            process.wait_for("round_committed")
            # So that it is there as long as the pages are looked at.
            run("quantflctl", "pause", "--results-dir", self.folder / "live", check=0)
            for name, driver in pages.items():
                # Until the page itself shows a committed round.
                WebDriverWait(driver, 60).until(
                    lambda d: d.find_elements(By.CSS_SELECTOR, "#rounds tbody tr"))
                self.assertTrue(driver.execute_script("return window.loadedOnce"), "the page was loaded anew")
                self.assertEqual(len(driver.find_elements(By.CSS_SELECTOR, "#clients tbody tr")), 4)
                self.look(driver, f"live-{name}")
            run("quantflctl", "resume", "--results-dir", self.folder / "live", check=0)
            self.assertEqual(process.wait(), 0, process.tail())

    def test_a_report_reads_on_a_desktop_a_phone_and_in_the_dark(self):
        for name, codec in (("bu16", "bu:16"), ("fp32", "fp32")):
            process, ready = self.coordinator(self.config(name=name, round__rounds=3, evaluation__enabled=False,
                                                          codec__uplink=codec,
                                                          evaluation__clients_every=1))
            for i in range(4):
                self.synthetic(ready["federation"], f"pi-{i}", "--first-index", i)
            self.assertEqual(process.wait(), 0, process.tail())
        run("quantflctl", "report", self.folder / "bu16", self.folder / "fp32", "--out", self.folder / "both", check=0)
        for name, size in SIZES.items():
            for dark in (False, True):
                with browser(*size, dark=dark) as opened:
                    opened.driver.get((self.folder / "both/report.html").as_uri())
                    self.assertIn("bu:16", opened.driver.find_element(By.ID, "runs").text)
                    self.look(opened.driver, f"report-{name}{'-dark' if dark else ''}")


if __name__ == "__main__":
    unittest.main(verbosity=2)
