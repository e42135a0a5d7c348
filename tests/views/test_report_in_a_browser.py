"""The report as somebody sees it, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dspy_bridge.views.report import report
from dspy_bridge.views.trace import from_document
from tests.support.chromium import PROGRAM, Page
from tests.support.traces import TraceBuilder, a_life
from tests.views.test_report import HOSTILE, a_big_trace

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="no chromium, chromium-browser or google-chrome here"),
    pytest.mark.timeout(180),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with Page() as browser:
        yield browser


@pytest.fixture
def page(browser: Page) -> Page:
    """A tab of the test's own."""
    browser.begin()
    return browser


def shown(page: Page, folder: Path, trace: TraceBuilder) -> None:
    """Open the report of a trace; it must draw itself in silence."""
    file = folder / "report.html"
    file.write_text(report(from_document(trace.document()), "a test"))
    page.open(file)
    assert page.run("document.documentElement.dataset.drawn") == "true"
    assert page.complaints == []
    assert page.requests == [file.as_uri()]


def texts(page: Page, selector: str) -> list[str]:
    found: list[str] = page.run(f"[...document.querySelectorAll({selector!r})].map((one) => one.textContent)")
    return found


def number_of(page: Page, selector: str) -> int:
    found: int = page.run(f"document.querySelectorAll({selector!r}).length")
    return found


def middle(page: Page, selector: str, number: int = 0) -> tuple[float, float]:
    script = f"""(() => {{
      const one = document.querySelectorAll({selector!r})[{number}];
      one.scrollIntoView({{ block: 'center' }});
      const box = one.getBoundingClientRect();
      return [box.x + box.width / 2, box.y + box.height / 2];
    }})()"""
    x, y = page.run(script)
    return x, y


def tip(page: Page) -> str | None:
    """What the tip says, if it is there."""
    said: str | None = page.run(
        "document.getElementById('tip').hidden ? null : document.getElementById('tip').innerText"
    )
    return said


def test_it_shows_every_worker_with_its_stages_requests_and_marks(page: Page, folder: Path) -> None:
    shown(page, folder, a_life())
    assert number_of(page, "g.worker") == 6  # five, and a row for what reached none
    assert number_of(page, ".stage.starting") == number_of(page, ".stage.spare") == 5 + 1  # one more in the legend
    assert number_of(page, "#timeline .stage.session") == 5
    assert number_of(page, "#timeline .requests:not(.failed)") == 2
    assert number_of(page, "#timeline .requests.failed") == 3
    assert [number_of(page, f"#timeline .mark.{kind}") for kind in ("crashed", "recycled", "hibernated")] == [1, 1, 1]
    label = page.run("document.querySelector('g.worker').getAttribute('aria-label')")
    assert label == "worker 201, session alice, 11 requests, crashed"
    same, other = (f"document.querySelectorAll('.stage.session')[{number}]" for number in (1, 2))
    colour = "getComputedStyle({}).fill"
    first = page.run(colour.format("document.querySelectorAll('.stage.session')[0]"))
    assert first == page.run(colour.format(same))  # alice's second worker
    assert first != page.run(colour.format(other))


def test_it_shows_figures_tables_and_charts(page: Page, folder: Path) -> None:
    shown(page, folder, a_life())
    cards = dict(zip(texts(page, ".cards dt"), texts(page, ".cards dd:nth-of-type(1)"), strict=True))
    assert cards["Requests"] == "23"
    assert cards["Failed"] == "3"
    assert cards["LM calls"] == "10"
    assert texts(page, "#commands tbody td:first-child") == ["execute_program", "call_predict"]
    assert set(texts(page, "#errors tbody td:first-child")) == {"overloaded", "worker_crashed", "execution_error"}
    assert texts(page, "#models tbody td:first-child") == ["scripted"]
    assert number_of(page, "#histogram .bars") > 3
    assert number_of(page, "#waiting path.series") == 1
    assert number_of(page, "#memory path.series") == 2
    assert texts(page, "#memory .legend span") == ["bob", "alice"]


def test_an_empty_trace_says_so_everywhere(page: Page, folder: Path) -> None:
    shown(page, folder, TraceBuilder())
    assert number_of(page, ".empty") == 6
    assert page.run("document.getElementById('models-section').hidden") is True


def test_what_is_under_the_pointer_is_told(page: Page, folder: Path) -> None:
    shown(page, folder, a_life())
    page.hover(*middle(page, "#timeline .requests.failed", 1))
    said = tip(page)
    assert said is not None
    assert said.startswith("execute_program: execution_error\n80 ms\nsession carol, request 21")
    page.hover(*middle(page, "#timeline .stage.session", 3))
    assert (tip(page) or "").startswith("session bob\nworker 205, for 800 ms so far")
    page.hover(*middle(page, "#timeline .mark.hibernated"))
    assert (tip(page) or "").startswith("hibernated\nsession carol")
    page.hover(*middle(page, "#memory svg"))
    assert "bob: " in (tip(page) or "")
    page.hover(2, 2)
    assert tip(page) is None


def test_the_keyboard_reaches_everything(page: Page, folder: Path) -> None:
    shown(page, folder, a_life())
    page.run("document.getElementById('timeline').focus()")
    page.press("ArrowRight")
    assert (tip(page) or "").startswith("starting\nworker 201")
    page.press("ArrowRight")
    page.press("ArrowRight")
    assert (tip(page) or "").startswith("session alice")
    page.press("ArrowDown")
    assert (tip(page) or "").startswith("starting\nworker 204")
    assert "worker 204" in page.run("document.getElementById('spoken').textContent")
    assert number_of(page, ".chosen") == 1
    page.run("document.querySelector('#histogram .bars').focus()")
    assert "1 request" in (tip(page) or "")
    page.run("document.querySelector('#waiting svg').focus()")
    page.press("ArrowRight")
    assert (tip(page) or "").startswith("at 39")


def span(page: Page) -> list[float]:
    found: list[float] = page.run("[timeline.from, timeline.to]")
    return found


def test_zoom_and_pan_stay_within_the_trace(page: Page, folder: Path) -> None:
    shown(page, folder, a_life())
    whole = span(page)
    page.run("document.getElementById('timeline').focus()")
    page.press("+", text="+")
    assert span(page) == [whole[1] / 4, whole[1] * 3 / 4]
    assert number_of(page, "g.worker") == 6
    x, y = middle(page, "#timeline .rows")
    page.drag(x, y, x + 100)
    moved = span(page)
    assert moved[0] < whole[1] / 4
    assert moved[1] - moved[0] == pytest.approx(whole[1] / 2)
    for _ in range(20):
        page.drag(x, y, x + 300)
    assert span(page)[0] == 0
    page.run("document.getElementById('zoom-out').click()")
    page.run("document.getElementById('zoom-out').click()")
    assert span(page) == whole
    for _ in range(60):
        page.run("document.getElementById('zoom-in').click()")
    low, high = span(page)
    assert 0 < high - low < 1
    page.run("document.getElementById('zoom-all').click()")
    assert span(page) == whole
    assert page.complaints == []


def test_tables_are_sorted_by_any_column(page: Page, folder: Path) -> None:
    shown(page, folder, a_life())
    first = "#sessions tbody td:first-child"
    assert texts(page, first) == ["alice", "bob", "carol"]
    page.run("document.querySelectorAll('#sessions th button')[2].click()")  # failed
    assert texts(page, first)[0] == "carol"
    page.run("document.querySelectorAll('#sessions th button')[2].click()")
    assert texts(page, first)[0] == "bob"
    assert page.run("document.querySelectorAll('#sessions th')[2].getAttribute('aria-sort')") == "ascending"
    page.run("document.querySelectorAll('#sessions th button')[0].click()")
    assert texts(page, first) == ["alice", "bob", "carol"]


def test_a_session_whose_name_is_a_script_does_nothing(page: Page, folder: Path) -> None:
    trace = a_life((HOSTILE, "<svg onload=window.harmed=3>", "javascript:window.harmed=4"))
    trace.request(202, HOSTILE, 1_000, 20, command="<b onclick=x>", outcome=HOSTILE)
    shown(page, folder, trace)
    page.hover(*middle(page, "#timeline .requests.failed"))
    page.run("document.getElementById('timeline').focus()")
    for _ in range(5):
        page.press("ArrowRight")
    assert HOSTILE in page.run("document.getElementById('spoken').textContent")
    assert page.run("window.harmed") is None
    assert number_of(page, "img, b[onclick], svg[onload]") == 0
    assert HOSTILE in texts(page, "#sessions tbody td:first-child")
    assert page.complaints == []
    assert len(page.requests) == 1


def test_a_text_that_were_taken_for_markup_still_could_not_run(page: Page, folder: Path) -> None:
    shown(page, folder, a_life())
    page.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.harmed=1\">')")
    page.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.harmed=2'}))")
    assert page.run("window.harmed") is None
    assert any("Content Security Policy" in one for one in page.complaints)


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1_600, "dark")])
def test_it_fits_the_window_and_follows_its_scheme(page: Page, folder: Path, width: int, scheme: str) -> None:
    page.size(width, 800)
    page.media(scheme=scheme)
    shown(page, folder, a_life(("a" * 90, "b c " * 20, "ç" * 60)))
    assert page.run("document.documentElement.scrollWidth") <= width
    light = page.run("getComputedStyle(document.body).backgroundColor === 'rgb(246, 247, 249)'")
    assert light == (scheme == "light")


def test_it_prints_light_and_without_its_buttons(page: Page, folder: Path) -> None:
    page.media(scheme="dark", kind="print")
    shown(page, folder, a_life())
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.run("getComputedStyle(document.querySelector('.tools')).display") == "none"
    assert page.ask("Page.printToPDF")["data"]


def test_a_hundred_thousand_events_open_quickly(page: Page, folder: Path) -> None:
    file = folder / "report.html"
    trace = a_big_trace(97_000, 600)
    assert len(trace.events) > 99_000
    file.write_text(report(trace, "a test"))
    assert file.stat().st_size < 8 << 20
    page.open(file)
    timing: dict[str, Any] = page.run("performance.getEntriesByType('navigation')[0].toJSON()")
    assert timing["loadEventEnd"] < 15_000  # about half a second on a machine with nothing else to do
    assert number_of(page, "g.worker") == 100
    page.run("document.getElementById('more-workers').click()")
    assert number_of(page, "g.worker") == 200
    assert number_of(page, "#notes li") >= 1
    print(f"{file.stat().st_size / 2**20:.1f} MiB, loaded in {timing['loadEventEnd']:.0f} ms")
