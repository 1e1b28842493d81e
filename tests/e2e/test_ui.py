"""The page at /ui in a real Chromium, over a real daemon: it draws, follows the file, explains, fits, logs no error."""

from __future__ import annotations

import pathlib
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.support.daemon import Daemon
from tests.support.ports import closed_port

BASE = """\
version: 1
providers:
  demo: {dialect: simulator, simulator: {first_token: 0s, tokens_per_s: 1000}}
  gpu:
    dialect: openai
    auth: {type: none}
    endpoints:
      - {name: gpu-a, url: "http://127.0.0.1:PORT/v1/secret-8", max_concurrent: 4}
      - {name: gpu-b, url: "http://127.0.0.1:PORT/v1"}
models:
  chat: {aliases: [gpt-4], chain: [gpu/llama, demo/echo], budgets: [burst]}
  echo: {description: "<b>not markup</b>", chain: [demo/echo]}
budgets:
  burst: {requests: 10, per: 1d, scope: client}
clients:
  team: {key: sk-team}
  guest: {key: sk-guest, models: [echo]}
""".replace("PORT", str(closed_port()))


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    """Start the browser once: it takes longer than any of the tests."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert binary, "chromium is not installed: apt-get install chromium chromium-driver"
    assert driver, "chromedriver is not installed: apt-get install chromium chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(executable_path=driver))
    yield browser
    browser.quit()


@pytest.fixture
def browser(chromium: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """Give the browser; whatever a test did, the page logged no error."""
    width(chromium, 1280)
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "light"}]})
    yield chromium
    logged = [line["message"] for line in chromium.get_log("browser") if line["level"] in ("SEVERE", "WARNING")]
    chromium.get("about:blank")
    assert logged == []


@pytest.fixture
def daemon(tmp_path: pathlib.Path, chromium: webdriver.Chrome) -> Iterator[Daemon]:
    running = Daemon(tmp_path, BASE, args=("--workers", "2"))
    yield running
    chromium.get("about:blank")  # else it would ask one that has gone
    running.stop()


def width(browser: webdriver.Chrome, pixels: int) -> None:
    size = {"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def opened(browser: webdriver.Chrome, daemon: Daemon) -> webdriver.Chrome:
    browser.get(daemon.admin + "/ui")
    holds(lambda: text(browser, "line") == "live" and len(rows(browser)) >= 1 and "ready" in text(browser, "serving"))
    return browser


def holds(what: Callable[[], Any], timeout_s: float = 5.0) -> float:
    """Wait until it is so; return how long it took."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < timeout_s, "it did not come to be so"
        time.sleep(0.02)
    return time.monotonic() - began


def text(browser: webdriver.Chrome, element: str) -> str:
    return str(browser.execute_script("return document.getElementById(arguments[0]).innerText", element))


def rows(browser: webdriver.Chrome) -> list[str]:
    return list(browser.execute_script("return [...document.querySelectorAll('[data-name]')].map(row => row.dataset.name)"))


def edges(browser: webdriver.Chrome) -> int:
    return int(browser.execute_script("return document.querySelectorAll('#edges path').length"))


def overflow(browser: webdriver.Chrome) -> int:
    return int(browser.execute_script("return document.documentElement.scrollWidth - innerWidth"))


def call(daemon: Daemon, model: str) -> None:
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "a b c d"}}]}}'.encode()
    headers = {"content-type": "application/json", "authorization": "Bearer sk-team"}
    with urllib.request.urlopen(urllib.request.Request(daemon.url + "/v1/chat/completions", body, headers), timeout=10) as answer:
        assert answer.status == 200


def test_it_draws_models_providers_endpoints_and_budgets(browser: webdriver.Chrome, daemon: Daemon) -> None:
    opened(browser, daemon)
    assert rows(browser) == ["chat", "echo"]
    providers = text(browser, "providers")
    for word in ("demo", "gpu", "gpu-a", "gpu-b", "0 of 4 in flight", "free"):
        assert word in providers
    holds(lambda: edges(browser) == 3)  # chat to gpu and demo, echo to demo
    assert "generation 1" in text(browser, "reloads")
    assert "2 of 2 workers" in text(browser, "workers")
    call(daemon, "chat")
    holds(lambda: "10 %" in text(browser, "budgets"), 10.0)
    assert not browser.find_element(By.ID, "rejected").is_displayed()


def test_a_change_of_the_file_is_drawn_within_a_second(browser: webdriver.Chrome, daemon: Daemon) -> None:
    opened(browser, daemon)
    daemon.write(BASE.replace("  echo: {", "  fresh: {chain: [demo/echo]}\n  echo: {"))
    assert holds(lambda: "fresh" in rows(browser)) < 1.0
    holds(lambda: "generation 2" in text(browser, "serving"))
    assert "reload applied" in text(browser, "events")
    holds(lambda: "adds model fresh" in text(browser, "reloads") or "fresh" in text(browser, "reloads"))


def test_a_rejected_file_is_shown_with_its_line_until_it_is_right(browser: webdriver.Chrome, daemon: Daemon) -> None:
    opened(browser, daemon)
    daemon.write(BASE.replace("chain: [demo/echo]}", "chian: [demo/echo]}"))
    banner = browser.find_element(By.ID, "rejected")
    assert holds(banner.is_displayed) < 1.0
    line = 1 + BASE[: BASE.index("  echo: {")].count("\n")
    assert f"routes.yaml:{line}:" in banner.text
    assert "did you mean 'chain'?" in banner.text
    assert "generation 1 keeps serving" in banner.text
    assert "rejected" in text(browser, "reloads")
    daemon.write(BASE + "# better\n")
    holds(lambda: not banner.is_displayed())


def test_what_is_out_is_said_at_the_top_and_at_the_models_before_it(browser: webdriver.Chrome, daemon: Daemon) -> None:
    daemon.write(BASE.replace("  echo: {", "  gone: {chain: [gpu/llama]}\n  echo: {"))
    opened(browser, daemon)
    holds(lambda: rows(browser) == ["chat", "gone", "echo"])
    browser.execute_script("document.querySelector('[data-name=chat]').click()")
    first = "return (document.querySelector('.target .mono') || {}).innerText"
    holds(lambda: browser.execute_script(first) == "gpu/llama")
    for name in ("gpu-a", "gpu-b"):
        daemon.post_admin(f"/-/endpoints/{name}/drain")
    holds(lambda: text(browser, "trouble") == "2 of 3 endpoints out")
    dots = "return [...document.querySelectorAll('[data-name]')].map(row => (row.querySelector('.dot') || {}).className || '')"
    assert browser.execute_script(dots) == ["dot warn", "dot bad", ""]
    holds(lambda: browser.execute_script(first) == "demo/echo")  # the chain on the screen follows
    for name in ("gpu-a", "gpu-b"):
        daemon.post_admin(f"/-/endpoints/{name}/undrain")
    holds(lambda: text(browser, "trouble") == "" and browser.execute_script(dots) == ["", "", ""])


def test_explain_is_told_on_the_graph(browser: webdriver.Chrome, daemon: Daemon) -> None:
    opened(browser, daemon)
    field = browser.find_element(By.ID, "model")
    field.send_keys("gpt-4", Keys.ENTER)
    holds(lambda: "by alias" in text(browser, "decision"))
    chain = text(browser, "chain")
    assert chain.index("gpu/llama") < chain.index("demo/echo")
    holds(lambda: edges(browser) == 6)  # from the model to each of three targets, from each to its endpoint
    browser.find_element(By.ID, "down").send_keys("gpu", Keys.ENTER)
    holds(lambda: "thought away" in text(browser, "chain"))
    browser.find_element(By.ID, "client").send_keys("guest")
    holds(lambda: "403" in text(browser, "decision"))
    field.clear()
    field.send_keys("no-such", Keys.ENTER)
    holds(lambda: "404" in text(browser, "decision"))


def test_the_list_of_models_works_by_keyboard(browser: webdriver.Chrome, daemon: Daemon) -> None:
    opened(browser, daemon)
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys("/")
    assert browser.switch_to.active_element.get_attribute("id") == "filter"
    browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    holds(lambda: "to chat" in text(browser, "decision"))
    browser.switch_to.active_element.send_keys(Keys.END)
    holds(lambda: "to echo" in text(browser, "decision"))
    assert browser.execute_script("return document.querySelectorAll('b').length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_follows_the_scheme(scheme: str, browser: webdriver.Chrome, daemon: Daemon) -> None:
    width(browser, 375)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    opened(browser, daemon)
    browser.find_element(By.ID, "model").send_keys("chat", Keys.ENTER)
    holds(lambda: "gpu/llama" in text(browser, "chain"))
    assert overflow(browser) <= 0
    daemon.write(BASE.replace("chain: [demo/echo]}", "chain: [demo/" + "long-" * 40 + ", nobody/x]}"))
    holds(browser.find_element(By.ID, "rejected").is_displayed)
    assert overflow(browser) <= 0
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    shade = int(background.partition("(")[2].partition(",")[0])
    assert shade > 200 if scheme == "light" else shade < 50


def test_two_thousand_models_are_a_short_list_of_rows(browser: webdriver.Chrome, tmp_path: pathlib.Path) -> None:
    models = "".join(f"  model-{i:04}: {{chain: [demo/echo]}}\n" for i in range(2000))
    daemon = Daemon(tmp_path, f"version: 1\nproviders: {{demo: {{dialect: simulator}}}}\nmodels:\n{models}")
    try:
        opened(browser, daemon)
        assert len(rows(browser)) < 40
        took = browser.execute_script("""
            const began = performance.now();
            for (const word of ['m', 'mo', '19', '199', '1999']) {
              const box = document.getElementById('filter');
              box.value = word;
              box.dispatchEvent(new Event('input'));
            }
            return performance.now() - began;""")
        assert took < 500  # five key strokes
        assert rows(browser) == ["model-1999"]
        browser.find_element(By.ID, "filter").send_keys(Keys.ARROW_DOWN)
        holds(lambda: "to model-1999" in text(browser, "decision"))
    finally:
        browser.get("about:blank")  # else it would ask one that has gone
        daemon.stop()


def test_the_page_and_its_facts_hold_no_secret_and_run_nothing_foreign(daemon: Daemon) -> None:
    for path in ("/ui", "/-/graph", "/-/explain?model=chat&client=team"):
        code, told = daemon.get_admin(path)
        assert code == 200
        assert "secret-8" not in told
        assert "sk-team" not in told
    with urllib.request.urlopen(daemon.admin + "/ui", timeout=5) as answer:
        policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
