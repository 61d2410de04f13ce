"""The report in a real browser: `make browser`. Skipped where there is none."""

import html
import json
import re
import shutil
import subprocess

import pytest

from hrnet_jax.data.dataset import folder_dataset
from hrnet_jax.evaluation.report import write_report
from tests.evaluation.test_report import CLASSES, HOSTILE, report_of

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no chromium here; on Debian: apt install chromium"),
]

# Does what a reader does, and records what the page shows.
READER = """<script>
window.addEventListener("load", () => {
  const names = () => [...document.querySelectorAll("#classes tbody th")].map(t => t.textContent);
  const heads = document.querySelectorAll("#classes thead th");
  const seen = {rows: names(), bold: document.querySelectorAll("b b, th b, text b").length};
  heads[1].querySelector("button").click();
  seen.byIou = [...document.querySelectorAll("#classes tbody tr")].map(r => r.cells[1].dataset.v);
  heads[0].querySelector("button").click();
  seen.byName = names();
  const heat = document.getElementById("heat"), cell = heat.querySelector("rect.d");
  cell.scrollIntoView();
  const box = cell.getBoundingClientRect();
  heat.dispatchEvent(new PointerEvent("pointermove",
    {clientX: box.x + box.width / 2, clientY: box.y + box.height / 2}));
  seen.hover = document.getElementById("hover").textContent;
  const figure = document.querySelector("figure"), narrow = figure.offsetWidth;
  figure.click();
  seen.grows = figure.offsetWidth / narrow;
  seen.pictures = [...document.images].map(i => i.naturalWidth);
  // What the page itself requested; the network log has the browser's own requests too.
  seen.requests = performance.getEntriesByType("resource").map(r => r.name)
    .filter(name => !name.startsWith("data:"));
  seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const note = document.createElement("pre");
  note.id = "seen";
  note.textContent = JSON.stringify(seen);
  document.body.append(note);
});
</script>"""


def browse(path, *options, size="1000,900"):
    return subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            f"--user-data-dir={path.parent / 'profile'}", f"--window-size={size}",
            "--enable-logging=stderr", "--v=0", "--disable-background-networking",
            "--disable-component-update", "--no-first-run", *options, path.as_uri(),
        ],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip


def read(folder, *, dataset=None, size="1000,900", more=""):
    path = folder / "report.html"
    write_report(path, **(report_of() if dataset is None else report_of(dataset)))
    assert "</body>" in path.read_text()
    path.write_text(path.read_text().replace("</body>", more + READER + "</body>"))
    done = browse(path, "--dump-dom", size=size)
    note = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert note, done.stderr
    return json.loads(html.unescape(note[1])), done.stderr


@pytest.fixture(scope="module")
def visit(tmp_path_factory):
    return read(tmp_path_factory.mktemp("report"))


def test_every_class_has_its_row_and_html_in_a_name_is_text(visit):
    seen, _ = visit
    assert seen["rows"] == list(CLASSES)
    assert HOSTILE in seen["rows"]
    assert seen["bold"] == 0


def test_no_console_message_and_no_request(visit):
    seen, stderr = visit
    assert "CONSOLE" not in stderr
    assert seen["requests"] == []


def test_a_request_would_be_refused_and_seen(tmp_path):
    _, stderr = read(tmp_path, more='<img src="http://127.0.0.1:9/picture.png">')
    assert "Content Security Policy" in stderr
    assert "CONSOLE" in stderr


def test_headings_sort(visit):
    seen, _ = visit
    values = [-1.0 if text == "" else float(text) for text in seen["byIou"]]
    assert values == sorted(values, reverse=True)
    assert sorted(seen["byName"]) == sorted(CLASSES)
    assert seen["byName"] != list(CLASSES)


def test_a_cell_tells_its_number_and_a_click_enlarges(visit):
    seen, _ = visit
    receipt = report_of()["receipt"]
    right, total = receipt["confusion"][0][0], sum(receipt["confusion"][0])
    assert seen["hover"] == (
        f"{HOSTILE} → {HOSTILE}: {100 * right / total:.2f} % of {HOSTILE} ({right:,} pixels)"
    )
    assert seen["grows"] > 2
    assert min(seen["pictures"]) == 60


def test_150_classes_on_a_phone(tmp_path):
    dataset = folder_dataset(classes=tuple(f"class number {i}" for i in range(150)))
    seen, stderr = read(tmp_path, dataset=dataset, size="500,800")
    assert len(seen["rows"]) == 150
    assert "class number 0 →" in seen["hover"]
    assert seen["overflow"] <= 0  # wide tables scroll inside themselves
    assert "CONSOLE" not in stderr
