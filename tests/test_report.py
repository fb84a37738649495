"""The report page: well formed, self-contained, safe, and its curves agree with the data."""

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from minillm.training import curves
from minillm.training.axis import axis_around
from minillm.training.report import smoothed, write_report

VOID = {"meta", "br", "hr", "img", "input", "link"}
HOSTILE = (
    "</pre></script><script>alert(1)</script><img src=x onerror=y>&amp;\x1b[2J\u202e\udc80\x00"
)


class Page(HTMLParser):
    """The page as a tree walker: every tag must be closed in its turn."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.text = [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag}: an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert "svg" in self.open, f"<{tag}/> closes itself only inside SVG"
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> does not close what is open"

    def handle_data(self, data):
        for tag in set(self.open):
            self.text[tag] = self.text.get(tag, "") + data

    def all(self, tag, style=None):
        return [a for t, a in self.tags if t == tag and style in (None, a.get("class"))]


def write_run(folder, rows, settings=None, facts=None, samples=None):
    (folder / "training").mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
    for name, value in (("settings", settings), ("facts", facts)):
        if value is not None:
            path = folder / "training" / f"{name}.json"
            path.write_text(json.dumps(value), encoding="utf-8")
    if samples is not None:
        lines = "".join(json.dumps(row) + "\n" for row in samples)
        (folder / "training" / "samples.jsonl").write_text(lines, encoding="utf-8")
    return folder


def report(folder):
    """The page of a run, after the checks every page must pass."""
    path = write_report(folder)
    assert path == folder / "report.html"
    text = path.read_bytes().decode("utf-8")
    assert len(text) < 500_000
    page = Page(text)
    for _, attributes in page.tags:
        assert not {"src", "href", "xlink:href", "action", "srcset", "data"} & set(attributes)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bfetch\b", text, re.IGNORECASE)
    assert len(page.all("h1")) == 1 and page.all("html") == [{"lang": "en"}]
    assert page.text["title"].strip()
    assert not re.search(r"\b(nan|inf|None)\b", page.text["main"])
    return page, text


def realistic_rows(n=400):
    rng = np.random.default_rng(0)
    rows = []
    for step in range(1, n + 1):
        loss = 1.5 + 2.7 * math.exp(-step / 60) + 0.05 * float(rng.standard_normal())
        row = {"step": step, "loss": loss, "tokens": step * 2048, "lr": 1e-3 * step / n}
        row |= {"grad_norm": 0.5 + loss / 10, "tokens_per_s": 3e4, "elapsed_s": step * 0.5}
        if step % 50 == 0:
            row |= {"val_loss": 1.6 + abs(step - 300) / 400, "val_bpb": 2.0}
        rows.append(row)
    return rows


def number_in(text):
    return float(text.replace(",", "").replace("k", "e3"))


def axes(text):
    """The first chart's value and step as functions of drawn coordinates, by two ticks each."""
    text = text[: text.index("</figure>")]
    ticks = re.findall(r'<text class="y" x="-8" y="([\d.]+)" dy=".35em">([^<]+)</text>', text)
    (y1, v1), (y2, v2) = [(float(y), number_in(label)) for y, label in (ticks[0], ticks[-1])]
    ticks = re.findall(r'<text class="x" x="([\d.]+)%" y="[\d.]+">([^<]+)</text>', text)
    (x1, s1), (x2, s2) = [(float(x), number_in(label)) for x, label in (ticks[0], ticks[-1])]
    return (
        lambda y: v1 + (y - y1) * (v2 - v1) / (y2 - y1),
        lambda x: s1 + (x - x1) * (s2 - s1) / (x2 - x1),
    )


def points_of(text, style):
    path = re.search(rf'<path class="{style}"[^>]* d="M([^"]*)"', text)[1]
    return [tuple(map(float, pair.split(","))) for pair in path.split("L")]


def test_the_curves_agree_with_the_data_by_the_printed_axes(tmp_path):
    rows = realistic_rows()
    page, text = report(write_run(tmp_path / "run", rows))
    value, step = axes(text)
    by_step = {row["step"]: row for row in rows}
    raw = points_of(text, "raw")
    assert len(raw) == 400
    for x, y in raw:
        row = by_step[round(step(x / 10))]
        assert value(y) == pytest.approx(row["loss"], abs=0.01)
    circles = page.all("circle", "point")
    assert [round(step(float(c["cx"].rstrip("%")))) for c in circles] == list(range(50, 401, 50))
    for circle in circles:
        row = by_step[round(step(float(circle["cx"].rstrip("%"))))]
        assert value(float(circle["cy"])) == pytest.approx(row["val_loss"], abs=0.01)
    (best,) = page.all("circle", "best")
    assert round(step(float(best["cx"].rstrip("%")))) == 300
    assert value(float(best["cy"])) == pytest.approx(1.6, abs=0.01)


def test_a_wide_range_of_losses_is_drawn_on_a_logarithmic_axis(tmp_path):
    rows = [{"step": step, "loss": 10.0 ** (2 - step / 10)} for step in range(1, 41)]
    _, text = report(write_run(tmp_path, rows))
    assert "nats per token (logarithmic)" in text
    ticks = re.findall(r'<text class="y" x="-8" y="([\d.]+)" dy=".35em">([^<]+)</text>', text)
    heights = {float(label): float(y) for y, label in ticks}
    assert set(heights) == {0.01, 0.1, 1.0, 10.0, 100.0}
    decade = (heights[0.01] - heights[100.0]) / 4
    assert heights[10.0] == pytest.approx(heights[100.0] + decade, abs=0.11)
    raw = points_of(text, "line")
    assert raw[9][1] == pytest.approx(heights[10.0], abs=0.11)  # step 10: loss 10
    assert raw[24][1] == pytest.approx(heights[1.0] + decade / 2, abs=0.11)  # step 25: 10**-0.5


def test_the_headline_is_the_result(tmp_path):
    facts = {"model": {"parameters": 925_440}, "data": {"file": "tiny.txt", "bytes": 1_115_394}}
    page, _ = report(write_run(tmp_path / "run-7", realistic_rows(), facts=facts))
    text = page.text["main"]
    assert page.text["h1"] == "run-7"
    assert "Trained for 400 steps on 819k tokens in 3m20s." in text
    assert "Validation loss ended at 1.850 nats per token (2.000 bits per byte)." in text
    assert "Its lowest, 1.600 nats per token (2.000 bits per byte), was at step 300." in text
    assert "It has risen by 15.6 % since." in text
    assert "Parameters925k925,440" in text
    assert "bytes1,115,394" in text
    assert "minillm generate run-7\nminillm train --resume run-7" in text


def test_a_run_that_ends_at_its_best_speaks_of_one_loss(tmp_path):
    rows = [{"step": 1, "val_loss": 3.0}, {"step": 2, "val_loss": 2.5}]
    page, _ = report(write_run(tmp_path, rows))
    text = page.text["main"]
    assert "Trained for 2 steps. Validation loss ended at 2.500 nats per token." in text
    assert "Its lowest" not in text and "risen" not in text


def test_settings_are_shown_as_they_are(tmp_path):
    settings = {
        "seed": 123456,
        "lr": 1e-3,
        "compile": None,
        "tie_embeddings": True,
        "note": HOSTILE,
    }
    settings |= {"betas": [0.9, 0.95], "stages": [], "nested": {"a": [1, {"b": "<i>"}]}}
    page, _ = report(write_run(tmp_path, [], settings=settings))
    cells = page.text["table"]
    for shown in ("seed123456", "lr0.001", "compilenot set", "tie embeddingsyes"):
        assert shown in cells
    assert "betas0.9, 0.95" in cells and "stages(none)" in cells
    assert 'nested{"a": [1, {"b": "<i>"}]}' in cells
    assert all(a.get("scope") in ("row", "col") for a in page.all("th"))
    assert len(page.all("table")) == len(page.all("caption"))


def test_hostile_text_is_shown_and_not_obeyed(tmp_path):
    samples = [{"step": 10, "prompt": HOSTILE[:20], "text": HOSTILE + " שלום 日本 🙂"}]
    rows = [{"step": 1, "loss": 2.0, "skipped": HOSTILE}]
    facts = {HOSTILE: {HOSTILE: HOSTILE}}
    folder = tmp_path / "<b>&'\"name"
    try:
        folder.mkdir()
    except OSError:  # not a name on Windows
        folder = tmp_path / "&'name"
    page, text = report(write_run(folder, rows, {HOSTILE: HOSTILE}, facts, samples))
    assert len(page.all("script")) == 1 and not page.all("img")
    shown = HOSTILE.encode("unicode_escape").decode("ascii")
    assert page.text["pre"].startswith(shown + " שלום 日本 🙂")
    assert page.text["td"].count(shown) == 3  # reason, setting, fact
    assert folder.name in page.text["h1"] and folder.name in page.text["title"]
    assert not set(text) & set("\x1b\x00\u202e\udc80")
    assert page.text["script"].rstrip().endswith("}")


def test_a_prompt_that_the_text_repeats_is_shown_once(tmp_path):
    samples = [{"step": 1, "prompt": "Once", "text": "Once upon"}, {"step": 2, "text": "x" * 5000}]
    page, _ = report(write_run(tmp_path, [], samples=samples))
    assert page.text["pre"].startswith("Once upon" + "x" * 1200 + " ... (3800 more characters)")
    assert page.text["b"] == "Once"


def test_skipped_steps_are_marked_and_explained(tmp_path):
    rows = realistic_rows(100)
    rows[39] = {"step": 40, "skipped": "loss is nan"}
    rows.append({"step": 120, "skipped": "gradient of wte is inf"})
    path = write_run(tmp_path, rows)
    page = Page(write_report(path).read_text(encoding="utf-8"))
    marks = page.all("line", "mark")
    assert [float(mark["x1"].rstrip("%")) for mark in marks] == pytest.approx(
        [100 * 40 / 120, 100], abs=0.01
    )
    assert "40loss is nan" in page.text["table"]
    assert "120gradient of wte is inf" in page.text["table"]
    assert "The numerics guard marked 2 steps." in page.text["main"]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 0}],
        [{"step": 1, "loss": 4.2, "lr": 1e-3}],
        [{"step": 1, "val_loss": 4.2}],
        [{"step": step, "loss": 2.0, "lr": 0.0} for step in range(5)],
        [{"step": 3, "loss": loss, "grad_norm": loss} for loss in (1e308, 5e-324, 2.0)],
        [{"step": 3, "loss": loss, "val_loss": -loss} for loss in (-1e308, 1e308)],
        [{"step": 2**62, "loss": 1 + 1e-13 * i, "lr": 5e-324} for i in range(5)],
        [{"step": i, "loss": 1e6 + i / 1000} for i in range(5)],
        [{"step": i, "skipped": "loss is not a number"} for i in range(5)],
    ],
    ids=range(10),
)
@pytest.mark.filterwarnings("error")
def test_any_measurements_make_a_page(tmp_path, rows):
    page, text = report(write_run(tmp_path, rows))
    for path in page.all("path"):
        for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path["d"]):
            assert 0 <= float(x) <= 1000 and 0 <= float(y) <= 320
    assert ("No training step has been recorded" in text) == (
        max([0, *(r["step"] for r in rows)]) == 0
    )


def test_a_long_run_stays_small_and_keeps_its_extremes(tmp_path):
    rows = [
        {"step": 10 * i, "loss": 3 + math.sin(i * 0.7), "val_loss": 3.0 + i % 7, "grad_norm": 1.0}
        | {"skipped": "x\U000e0001" * 500, "lr": 1e-3, "tokens_per_s": 3e4 + i % 999}
        for i in range(1, 10_001)
    ]
    rows[7776]["loss"], rows[1233]["loss"] = 9.5, 0.5
    samples = [
        {"step": i, "prompt": "\U000e0001" * 500, "text": "\U000e0001" * 5000} for i in range(99)
    ]
    _, text = report(write_run(tmp_path, rows, samples=samples))
    value, step = axes(text)
    raw = points_of(text, "raw")
    assert len(raw) < 2000
    drawn = {round(step(x / 10), -1): value(y) for x, y in raw}
    assert max(drawn.values()) == pytest.approx(9.5, abs=0.02)
    assert min(drawn.values()) == pytest.approx(0.5, abs=0.02)
    assert (raw[0][0], raw[-1][0]) == (pytest.approx(0.1), 1000.0)
    assert "20 of 10,000 marked steps" in text and "60 of 10,000 evaluations" in text
    assert "12 of 99 samples are shown." in text


def test_equal_inputs_give_equal_bytes(tmp_path):
    pages = []
    for parent in ("a", "b"):
        folder = write_run(tmp_path / parent / "run", realistic_rows(), {"b": 1, "a": 2}, {"x": {}})
        pages.append(write_report(folder).read_bytes())
    write_report(folder)
    assert pages[0] == pages[1] == (folder / "report.html").read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == ["metrics.jsonl", "report.html", "training"]


def test_damaged_and_missing_inputs_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl"):
        write_report(tmp_path)
    folder = write_run(tmp_path, [{"step": 1, "loss": 1.0}])
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 2, "lo')  # the run is still going, or was killed
    assert "Trained for 1 step." in report(folder)[1]
    for name, text in (("settings", "[1]"), ("facts", "{"), ("facts", "\xff")):
        path = folder / "training" / f"{name}.json"
        path.write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=rf"report: {name}\.json: .*, needs a JSON object"):
            write_report(folder)
        path.unlink()


def test_the_smoothed_curve_does_not_lag_behind():
    line = np.linspace(4.0, 1.0, 1000)
    inner = slice(100, -100)
    assert np.abs(smoothed(line) - line)[inner].max() < 0.003
    noise = np.random.default_rng(0).standard_normal(1000)
    assert smoothed(noise).std() < 0.4
    np.testing.assert_array_equal(smoothed(np.array([5.0])), [5.0])


def test_thinning_keeps_order_ends_and_the_extremes_of_each_stretch():
    rng = np.random.default_rng(1)
    x = np.sort(rng.integers(0, 100_000, 5000)).astype(float)
    y = rng.standard_normal(5000)
    kept_x, kept_y = curves.thin(x, y, buckets=50)
    assert len(kept_x) <= 200
    assert (kept_x[0], kept_x[-1]) == (x[0], x[-1]) and (np.diff(kept_x) >= 0).all()
    pairs = set(zip(x.tolist(), y.tolist()))
    assert set(zip(kept_x.tolist(), kept_y.tolist())) <= pairs
    width = (x[-1] - x[0]) / 50
    for i in range(50):
        low, high = x[0] + i * width, x[0] + (i + 1) * width
        inside, kept = (x >= low) & (x < high), (kept_x >= low) & (kept_x < high)
        assert (y[inside].min(), y[inside].max()) == (kept_y[kept].min(), kept_y[kept].max())


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (1.4, 4.2, ["1.5", "2.0", "2.5", "3.0", "3.5", "4.0"]),
        (0.0, 1e-3, ["0", "0.0002", "0.0004", "0.0006", "0.0008", "0.0010"]),
        (0.0, 3e-4, ["0", "5e-5", "1e-4", "1.5e-4", "2e-4", "2.5e-4", "3e-4"]),
        (0.0, 33_000, ["0", "5,000", "10,000", "15,000", "20,000", "25,000", "30,000"]),
        (0.0, 3e9, ["0", "5e8", "1e9", "1.5e9", "2e9", "2.5e9", "3e9"]),
        (0.2, 3.0, ["0.5", "1.0", "1.5", "2.0", "2.5", "3.0"]),
        (0.1, 9.0, ["0.1", "0.2", "0.5", "1", "2", "5", "10"]),
        (1e-3, 1e3, ["0.001", "0.01", "0.1", "1", "10", "100", "1000"]),
    ],
)
def test_ticks_are_round_and_evenly_written(low, high, labels):
    axis = axis_around(low, high, from_zero=low == 0)
    assert axis.labels(axis.ticks(6)) == labels


def contrast(one, other):
    """The WCAG 2 contrast ratio of two colours `#rrggbb`."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_every_palette_is_readable(tmp_path):
    _, text = report(write_run(tmp_path, []))
    palettes = [
        dict(re.findall(r"--(\w+): (#\w{6})", block))
        for block in re.findall(r":root \{([^}]*)\}", text)
    ]
    assert len(palettes) == 3  # light, dark, print
    for colours in palettes:
        for ground in ("paper", "panel"):
            for ink in ("ink", "quiet", "train", "validation", "mark"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
