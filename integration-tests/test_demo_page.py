"""The page of the demo, in a real browser, in two workers."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import browser
import pytest
from demos import SERVERS, Tab
from harness import Server
from redis_server import RedisServer
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

# What the page says of its connection, and the connections themselves.
WATCH = """
globalThis.states = [];
globalThis.sockets = [];
addEventListener("DOMContentLoaded", () => {
  const state = document.querySelector("#state"), note = () => states.push(state.textContent);
  if (state) new MutationObserver(note).observe(state, { childList: true });
});
globalThis.WebSocket = class extends WebSocket {
  constructor(...args) { super(...args); sockets.push(this); }
};
"""

IN_ORDER = ["log", "text", "Send", "name", "Rename", "follow", "start"]


class Page:
    """A window with the page."""

    def __init__(self, driver: Chrome, url: str, name: str) -> None:
        driver.switch_to.new_window("window")
        self.handle = driver.current_window_handle
        self._driver = driver
        self.cdp("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        driver.get(url)
        self.until("document.querySelector('#name').value")  # the server has given one
        self.rename(name)

    @property
    def driver(self) -> Chrome:
        """The browser, which speaks of this window."""
        self._driver.switch_to.window(self.handle)
        return self._driver

    def cdp(self, method: str, **params: Any) -> None:
        self.driver.execute_cdp_cmd(method, params)

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def look(self, call: str) -> Any:
        """Call a function of ``looks.js``."""
        return browser.look(self.driver, call)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def texts(self, selector: str) -> list[str]:
        return [each.text for each in self.driver.find_elements(By.CSS_SELECTOR, selector)]

    def until(self, expression: str) -> None:
        browser.until(self.driver, expression)

    def until_text(self, selector: str, text: str) -> None:
        """Wait until an element begins with a text."""
        self.until(f"document.querySelector({selector!r})?.innerText.startsWith({text!r})")

    def until_here(self, *names: str) -> None:
        """Wait until just these are there."""
        here = f"Here: {', '.join(names)}"
        self.until(f"document.querySelector('#members')?.textContent === {here!r}")

    def until_said(self, *texts: str) -> None:
        """Wait until exactly these messages are the last ones that are shown."""
        self.until(
            f"[...document.querySelectorAll('#log li span')].map((each) => each.textContent)"
            f".slice(-{len(texts)}).join('|') === {'|'.join(texts)!r}"
        )

    def until_told(self, text: str) -> None:
        """Wait until the log has a text."""
        self.until(f"document.querySelector('#log').textContent.includes({text!r})")

    def rename(self, name: str) -> None:
        field = self.find("#name")
        field.clear()
        field.send_keys(name)
        self.find("#rename button").click()
        self.until_told(f" is now {name}")

    def say(self, text: str) -> None:
        self.find("#text").send_keys(text)
        self.find("#say button").click()

    def lose_connection(self) -> None:
        """Do what the server ends the connection for; the page does not come again by itself."""
        self.run("sockets.at(-1).send('rubbish')")
        self.until_text("#state", "Closed with code 1008")

    # The keyboard.

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def press_shift_tab(self) -> None:
        keys = ActionChains(self.driver).key_down(Keys.SHIFT).send_keys(Keys.TAB)
        keys.key_up(Keys.SHIFT).perform()

    def focus(self) -> str:
        """Tell what has the focus: its id, or the text of a button without one."""
        return str(
            self.run("const it = document.activeElement; return it.id || it.innerText.slice(0, 20)")
        )

    def tab_to(self, wanted: str) -> None:
        """Go on with the Tab key alone."""
        passed = [self.focus()]
        while passed[-1] != wanted:
            self.press(Keys.TAB)
            passed.append(self.focus())
            assert len(passed) < 20, passed

    def fill(self) -> None:
        """Let the page show all that it can."""
        self.find("#follow").click()
        self.find("#start").click()
        self.until_text("#meanwhile", "Slowest")
        self.until("document.querySelectorAll('#steps dt').length >= 5")
        self.say("a message with " + "a_very_long_word" * 10)
        self.until("document.querySelector('#log .own') !== null")
        self.run("sockets.at(-1).close(3000)")  # it comes again
        self.until("document.querySelector('#log .gap') !== null")
        self.until_text("#state", "Connected")
        self.run("""
            const message = JSON.stringify({ type: "say", text: "again" });
            for (let number = 0; number < 6; number++) sockets.at(-1).send(message);
        """)
        self.until_text("#refused", "Not so fast")
        self.until_text("#members", "Here: ")


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, redis: RedisServer
) -> Iterator[Server]:
    if not browser.is_installed():
        pytest.skip(browser.NEEDS)
    redis.query("flushall")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDIS_URL", redis.url)
        server: Server = request.param(tmp_path_factory.mktemp("demo"))
    server.up = "/"
    server.wait_until_up()
    yield server
    server.stop()
    assert "Traceback" not in server.log


@pytest.fixture(scope="module")
def driver(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browser.open_browser(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture
def open_page(driver: Chrome, server: Server) -> Iterator[Callable[[str], Page]]:
    """Open windows, in which nothing may go wrong that the test does not expect."""
    pages: list[Page] = []

    def open_page(name: str) -> Page:
        pages.append(Page(driver, server.url, name))
        return pages[-1]

    yield open_page
    for page in pages:
        page.driver.close()
    driver.switch_to.window(driver.window_handles[0])
    assert driver.get_log("browser") == []


@pytest.fixture
def page(open_page: Callable[[str], Page]) -> Page:
    return open_page("Ann")


def test_two_windows_talk_and_see_who_is_there(open_page: Callable[[str], Page]) -> None:
    ann, bob = open_page("Ann"), open_page("Bob")
    for page in ann, bob:
        page.until_here("Ann", "Bob")
        assert page.text("#tabs").startswith("2 tabs open")
    ann.say("Hello, Bob")
    bob.until_said("Hello, Bob")
    bob.say("Hello, Ann")
    for page in ann, bob:
        page.until_said("Hello, Bob", "Hello, Ann")
        assert page.texts("#log li strong")[-2:] == ["Ann", "Bob"]
    assert ann.texts("#log .own span") == ["Hello, Bob"]
    assert bob.texts("#log .own span") == ["Hello, Ann"]
    bob.rename("Bobby")
    ann.until_told("Bob is now Bobby")
    ann.until_here("Ann", "Bobby")
    bob.driver.get("about:blank")
    ann.until_told("Bobby left")
    ann.until_here("Ann")
    assert ann.text("#tabs") == "1 tab open"
    bob.driver.back()
    for page in ann, bob:
        page.until_here("Ann", "Bobby")
    bob.until_said("Hello, Bob", "Hello, Ann")


def test_html_in_messages_and_names_stays_text(open_page: Callable[[str], Page]) -> None:
    ann, bob = open_page("<b>Ann</b>"), open_page("Bob")
    html = '<img src="data:," onerror="hacked = true">'
    ann.say(html)
    for page in ann, bob:
        page.until_said(html)
        page.until_here("<b>Ann</b>", "Bob")
        assert page.texts("#log li strong")[-1] == "<b>Ann</b>"
        assert page.run("return document.querySelectorAll('img, b').length") == 0


def test_after_a_reload_the_page_comes_again_with_all_that_was_said(
    page: Page, server: Server
) -> None:
    before = len(page.texts("#log li span"))
    page.say("one")
    page.until_said("one")
    # The page stays away until Bob has said something.
    page.driver.set_network_conditions(offline=True, latency=0, throughput=0)
    server.signal(signal.SIGHUP)
    page.until_text("#state", "Closed with code ")
    page.until("document.querySelector('#members').textContent === ''")
    with ExitStack() as stack:
        bob = Tab(stack, server, "name=Bob")
        bob.until("message", text="one")
        bob.send(type="say", text="two")
        bob.until("message", text="two")
        page.find("#text").send_keys("three", Keys.ENTER)
        assert page.text("#refused").startswith("Not connected")
        page.driver.delete_network_conditions()
        page.until_text("#state", "Connected")
        page.until_said("two")
        page.until_told("News of who came and went may be missing here: reconnect")
        page.until_here("Ann", "Bob")
        page.press(Keys.ENTER)  # the message has waited in the field
        bob.until("message", text="three")
        page.until_said("one", "two", "three")
        # Once more, and nothing holds the page back.
        page.run("states.length = 0")
        server.signal(signal.SIGHUP)
        page.until("states.at(-1) === 'Connected'")
        page.say("four")
    page.until_said("one", "two", "three", "four")
    assert page.texts("#log li span")[before:] == ["one", "two", "three", "four"]
    assert page.texts("#log .own span") == ["one", "three", "four"]
    closed = page.run("return states")[0]
    assert re.match(r"Closed with code 10(01|06|12).*\. Next try in \d\.\d\ss\.$", closed)
    for entry in page.driver.get_log("browser"):
        assert "WebSocket connection to" in entry["message"], entry


def test_both_views_race_and_a_request_is_followed(page: Page) -> None:
    page.fill()
    for total in page.texts(".sides .total"):
        assert total.startswith("20 answers in ")
    assert page.texts("#steps dt")[0] == "tween, before the view"
    assert all(page.texts("#steps dd"))
    assert page.texts(".bars .when").count("") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_texts_have_enough_contrast(page: Page, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.cdp("Emulation.setEmulatedMedia", features=features)
    page.fill()
    assert (page.look("luminance(background(document.body))") > 0.5) == (scheme == "light")
    shown = []
    for is_connected in True, False:
        if not is_connected:
            page.lose_connection()
        texts = page.look("textContrasts()")
        assert len(texts) > 100
        assert [each for each in texts if each["contrast"] < 4.5] == []
        # WCAG 2.2, 1.4.11
        assert [each for each in page.look("controlContrasts()") if each["contrast"] < 3] == []
        shown += [each["text"] for each in texts]
    expected = ["Connected", "Closed with code", "Not so fast", "may be missing here", "Here: "]
    for text in [*expected, "a_very_long_word", "20 answers in", "Send 40 requests"]:
        assert any(text in each for each in shown), text


@pytest.mark.parametrize("width", [320, 375, 768])
def test_in_a_narrow_window_nothing_is_cut_off_and_all_can_be_touched(
    page: Page, width: int
) -> None:
    screen = {"width": width, "height": 640, "deviceScaleFactor": 1, "mobile": False}
    page.cdp("Emulation.setDeviceMetricsOverride", **screen)
    page.fill()
    for is_connected in True, False:
        if not is_connected:
            page.lose_connection()
        assert page.run("return innerWidth") == width
        assert page.run("return document.documentElement.scrollWidth") <= width
        assert len(page.look("places()")) > 100
        assert page.look("cutOff()") == []
        assert page.look("overlaps()") == []
        assert page.look("smallTargets(44)") == []


def test_the_tab_key_reaches_everything_in_order_and_the_focus_is_seen(page: Page) -> None:
    page.driver.refresh()
    page.until_text("#state", "Connected")
    reached = []
    for _ in IN_ORDER:
        page.press(Keys.TAB)
        reached.append(page.focus())
        assert page.look("focusContrast()") >= 3, reached
    assert reached == IN_ORDER
    page.press(Keys.TAB)
    assert page.focus() != "start"
    page.run("document.querySelector('#start').focus()")
    for before in reversed(IN_ORDER[:-1]):
        page.press_shift_tab()
        assert page.focus() == before
    page.lose_connection()
    page.press_shift_tab()
    assert page.focus() == "now"
    assert page.look("focusContrast()") >= 3


def test_the_keyboard_alone_is_enough(page: Page) -> None:
    page.driver.refresh()
    page.until_text("#state", "Connected")
    page.tab_to("text")
    page.press("by Enter", Keys.ENTER)
    page.until_said("by Enter")
    assert page.focus() == "text"
    assert page.find("#text").get_property("value") == ""
    page.press("by Space")
    page.tab_to("Send")
    page.press(Keys.SPACE)
    page.until_said("by Enter", "by Space")
    assert page.focus() == "text"
    page.tab_to("name")  # which is selected with it
    page.press("Anna", Keys.ENTER)
    page.until_told("Ann is now Anna")
    assert page.focus() == "name"
    page.press("bel")
    page.tab_to("Rename")
    page.press(Keys.SPACE)
    page.until_told("Anna is now Annabel")
    assert page.focus() == "Rename"
    page.tab_to("follow")
    page.press(Keys.ENTER)
    page.until("document.querySelectorAll('#steps dt').length >= 5")
    assert page.focus() == "follow"
    page.tab_to("start")
    page.press(Keys.SPACE)
    page.until_text("#meanwhile", "Slowest")
    assert page.focus() == "start"
    # What cannot be used keeps the focus, and does nothing.
    page.lose_connection()
    assert page.focus() == "start"
    page.press(Keys.ENTER)
    assert page.text("#meanwhile").startswith("Slowest")
    page.tab_to("now")
    page.press(Keys.ENTER)
    page.until_text("#state", "Connected")
    assert page.focus() == "text"


def test_all_is_named_and_what_changes_is_told_to_those_who_do_not_see_it(page: Page) -> None:
    page.lose_connection()
    names = {
        each.accessible_name
        for each in page.driver.find_elements(
            By.CSS_SELECTOR, "button, input, section, svg, [tabindex]"
        )
    }
    assert names == {
        *("Connect now", "Chat", "Messages", "Message", "Send", "Your name", "Rename"),
        *("Pulse of the event loop", "Round trips of the last 20 seconds"),
        *("Which thread does what", "Follow a request"),
        *("Coroutine view and plain view", "Send 40 requests"),
    }
    live = "[role=status], [role=log], [aria-live=polite]"
    told = ["#state", "#members", "#log", "#refused", "#steps dl", ".sides .total", "#meanwhile"]
    for selector in told:
        assert page.run(f"return document.querySelector({selector!r}).matches({live!r})"), selector
    # What changes all the time would drown the rest.
    assert page.run(f"return document.querySelector('#pulse').querySelector({live!r})") is None
