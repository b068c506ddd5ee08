"""The report: what it says, what it refuses, and that no text of a file becomes anything but text."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from command import Built, copy_of, done, gnet_edge, refused_without_a_trace
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import answered, lost_and_gained, measured, measured_bundle, on_a_jetson, scaled, with_accuracy

from googlenet_edge.commands import model as demonstration
from googlenet_edge.engines.accuracy import compare
from googlenet_edge.engines.evaluate import Thumbnail
from googlenet_edge.engines.measurement import (
    BatchThroughput,
    BundleMeasurement,
    Measurement,
    Stage,
    samples,
)
from googlenet_edge.engines.protocol import DeviceStage
from googlenet_edge.engines.report import plots
from googlenet_edge.engines.report.judge import judge
from googlenet_edge.engines.report.material import Material, Source, read_material
from googlenet_edge.engines.report.page import page_of
from googlenet_edge.engines.report.plots import Spot
from googlenet_edge.engines.report.subjects import subjects_of
from googlenet_edge.engines.report.verdict import Tone, Verdict, verdict_of
from googlenet_edge.engines.report.write import to_csv, to_html, to_markdown
from googlenet_edge.engines.sensors import Series
from googlenet_edge.errors import DataError
from googlenet_edge.files import to_json, write_json
from googlenet_edge.statistics import Interval, summarize
from googlenet_edge.target import Device, EngineName, Precision

FP32 = measured_bundle("runs/signs/fp32-cpu", Precision.FP32)
INT8 = measured_bundle("runs/signs/int8-cpu")
LAYERS = {
    "images": 200, "threads": 2, "sqnr_db": 31.5, "flips": 1, "latency_ms": 4.5,
    "layers": [{"layer": "inception3a", "noise_share": 0.4, "flips": 2, "gain_db": 1.5, "extra_ms": 0.3,
                "slowdown": 1.05, "slowdown_interval": {"low": 1.04, "high": 1.06}}],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_json(tmp_path / "measurement.json", measured())
    write_json(tmp_path / "answers.json", answered())
    return tmp_path


def material(*measurements: Measurement) -> Material:
    return Material(tuple(Source(f"m{i}.json", measurement) for i, measurement in enumerate(measurements)))


def verdict(*measurements: Measurement) -> Verdict:
    return verdict_of(subjects_of(material(*measurements)))


SAME = answered(lost=0, gained=0)
JUDGED = replace(with_accuracy(INT8, 1800), against_fp32=compare(*map(SAME.evaluation, SAME.bundles)))


# The verdict


def test_verdict_names_speed_and_accuracy() -> None:
    found = page_of(Material((Source("m.json", measured()),), (answered(lost=9, gained=4),))).verdict
    assert found.headline == (
        "int8-cpu is 3.0× as fast as fp32-cpu, and no change of its accuracy against fp32-cpu can be told from chance."
    )
    assert found.tone is Tone.GOOD
    assert (
        "4.65 ms against 14.07 ms for an image (p50): a ratio of 0.329, 95 % interval 0.325 to 0.332." in found.details
    )
    assert f"{lost_and_gained(answered(lost=9, gained=4)):+.2f} points" in found.details[1]


def test_verdict_tells_of_a_real_loss() -> None:
    found = page_of(Material((Source("m.json", measured()),), (answered(lost=30, gained=0),))).verdict
    assert found.headline == (
        "int8-cpu is 3.0× as fast as fp32-cpu, and it loses 8.33 points of accuracy against fp32-cpu."
    )
    assert found.tone is Tone.MIXED


def test_verdict_names_the_reference_of_accuracy_where_no_fp32_answered() -> None:
    first, second = answered(lost=30, gained=0).bundles
    two = measured(replace(INT8, name="int8-a"), replace(INT8, name="int8-b", model_sha256="e" * 64))
    first = replace(first, precision=Precision.INT8, model_sha256=INT8.model_sha256)
    said = replace(answered(), bundles=(first, replace(second, model_sha256="e" * 64)), thumbnails=())
    found = page_of(Material((Source("m.json", two),), (said,))).verdict
    assert "and it loses 8.33 points of accuracy against int8-a." in found.headline
    assert re.search(
        r"points \(.*\) against \S+ % \(.*\) of int8-a; \S+ % of the predictions are equal", found.details[1]
    )


def test_verdict_names_the_reference_of_speed_and_that_of_accuracy_where_they_differ() -> None:
    """Neither bundle is FP32; what each loses against that stands in its manifest."""
    about = answered(lost=30, gained=0)
    loss = compare(*map(about.evaluation, about.bundles))
    one, two = (replace(with_accuracy(INT8, 1700), name=name, against_fp32=loss) for name in ("int8-a", "int8-b"))
    found = verdict(measured(one, replace(two, latency=scaled(two.latency, 1 / 1.2))))
    assert found.headline == "int8-b is 1.2× as fast as int8-a, and it loses 8.33 points of accuracy against FP32."
    assert " of FP32; " in found.details[1]


@pytest.mark.parametrize(
    ("factor", "words", "tone"),
    [
        (0.98, "int8-cpu is 1.02× as fast as fp32-cpu", Tone.GOOD),
        (0.9, "int8-cpu is 1.1× as fast as fp32-cpu", Tone.GOOD),
        (0.997, "int8-cpu is as fast as fp32-cpu within half a percent", Tone.MIXED),
        (1.003, "int8-cpu is as fast as fp32-cpu within half a percent", Tone.MIXED),
        (1.02, "int8-cpu takes 1.02× the time of fp32-cpu", Tone.MIXED),
    ],
)
def test_verdict_tells_of_small_differences_with_as_many_digits_as_they_take(
    factor: float, words: str, tone: Tone
) -> None:
    found = verdict(measured(FP32, replace(JUDGED, latency=scaled(FP32.latency, factor))))
    assert (found.headline.split(",")[0], found.tone) == (words, tone)


def test_answers_by_another_engine_are_not_those_of_the_bundle_that_was_measured() -> None:
    about, other = answered(lost=30), replace(INT8, engine=replace(INT8.engine, backend="openvino"))
    material = Material((Source("m.json", measured(FP32, other)),), (about,))
    found, subjects = page_of(material), subjects_of(material)
    assert [bool(subject.accuracy) for subject in subjects] == [True, False], "FP32's is known, and no other"
    assert subjects[1].comparison is None
    assert found.answers[0].candidate == "int8-cpu (onnxruntime)"


def judged_by_build(bundle: BundleMeasurement) -> BundleMeasurement:
    """With 90 % of 2,000 images right, and what `build` says of FP32 beside it."""
    about = answered(lost=30, gained=0)
    return replace(with_accuracy(bundle, 1800), against_fp32=compare(*map(about.evaluation, about.bundles)))


def test_accuracy_of_another_engine_is_not_that_of_the_one_that_was_measured() -> None:
    """A build judges on ONNX Runtime, and `bench --engine openvino` measures another one."""
    judged = judged_by_build(INT8)
    other = replace(judged, engine=replace(INT8.engine, backend="openvino"))
    assert verdict(measured(FP32, judged)).headline.endswith("of accuracy against FP32.")
    assert verdict(measured(FP32, other)).headline.endswith("its accuracy was not measured.")


def test_simulated_accuracy_is_called_so_wherever_it_is_shown() -> None:
    jetson = replace(INT8, engine=replace(INT8.engine, backend="tensorrt", device=Device.ORIN_NANO))
    judged = replace(judged_by_build(jetson), accuracy_engine=EngineName.SIMULATED)
    material = Material((Source("m.json", measured(FP32, judged)),), ())
    found = verdict_of(subjects_of(material))
    assert found.headline.endswith("of accuracy against FP32 (simulated).")
    assert "Top-1 90.00 % (88.6 to 91.2), simulated on 2000 images" in found.details[1]
    assert "90.00 % (88.6 to 91.2), simulated" in to_markdown(page_of(material)).decode()
    rows = list(csv.DictReader(io.StringIO(to_csv(subjects_of(material)).decode())))
    assert [row["top1_simulated"] for row in rows] == ["", "1"]


def test_comparison_of_a_build_is_not_told_beside_the_accuracy_on_other_images() -> None:
    judged = judged_by_build(INT8)
    about = answered(lost=30)
    alone = replace(about, bundles=tuple(b for b in about.bundles if b.precision is Precision.INT8))
    material = Material((Source("m.json", measured(FP32, judged)),), (alone,))
    [_, subject] = subjects_of(material)
    assert (subject.accuracy != judged.accuracy, subject.comparison) == (True, None)
    assert verdict_of(subjects_of(material)).headline.endswith("and its accuracy was not compared.")
    both = answered(lost=9)
    [_, subject] = subjects_of(replace(material, answers=(alone, both)))
    assert subject.comparison is not None
    assert subject.accuracy == both.evaluation(both.bundles[1]).accuracy, "of the images of the comparison"


def test_page_of_answers_with_millions_of_classes_takes_no_matrix_of_them() -> None:
    about = answered()
    many = replace(about, class_names=(*about.class_names, *("",) * 3_000_000))
    page = page_of(Material((Source("m.json", measured()),), (many,)))
    assert page.answers[0].confusion == ""
    assert page.answers[0].confused == page_of(Material((Source("m.json", measured()),), (about,))).answers[0].confused


def test_verdict_claims_no_speed_up_that_may_be_noise() -> None:
    same = replace(INT8, latency=scaled(FP32.latency, 1.0))
    assert verdict(measured(FP32, same)).headline == (
        "int8-cpu is as fast as fp32-cpu, as far as can be told, and its accuracy was not measured."
    )
    slower = replace(INT8, latency=scaled(FP32.latency, 1.3))
    assert verdict(measured(FP32, slower)).headline.startswith("int8-cpu takes 1.30× the time of fp32-cpu, and")


def test_verdict_praises_no_speed_where_nobody_looked_at_the_accuracy() -> None:
    assert [verdict(measured(FP32, bundle)).tone for bundle in (JUDGED, INT8)] == [Tone.GOOD, Tone.MIXED]


def test_verdict_of_one_bundle_and_of_several_machines() -> None:
    assert verdict(measured(with_accuracy(INT8, 1800))) == Verdict(
        "int8-cpu answers in 4.65 ms.",
        ("int8-cpu: 4.65 ms (p50), 5.33 ms (p99), top-1 90.00 % (88.6 to 91.2).",),
        Tone.NEUTRAL,
    )
    slow = measured(measured_bundle("runs/signs/int8-cpu", factor=4.0))
    assert verdict(slow, measured(INT8)).headline == "The fastest of 2 is int8-cpu (m1): 4.65 ms for an image."
    alike = measured(measured_bundle("runs/signs/int8-cpu", factor=1.01))
    assert verdict(alike, measured(INT8)).headline == (
        "The fastest of 2 (within 1.75 %) are int8-cpu (m0) and int8-cpu (m1): 4.65 ms for an image."
    )


# The page


def test_page_says_what_was_not_measured(folder: Path) -> None:
    page = to_html(page_of(material(measured(FP32)))).decode()
    assert page.count("Not measured") >= 4
    assert 'top-1" class="absent">not measured</td>' in page
    assert "<img" not in page


def test_page_says_how_to_repeat_each_measurement_with_its_threads() -> None:
    four = replace(INT8, engine=replace(INT8.engine, threads=4))
    repeat = page_of(material(measured(INT8), measured(four))).repeat
    assert ["--threads 1 " in repeat[0], "--threads 4 " in repeat[1]] == [True, True]


def test_page_holds_everything_that_is_there(folder: Path) -> None:
    (folder / "layers.json").write_text(json.dumps(LAYERS))
    done("report", "measurement.json", "answers.json", "layers.json", cwd=folder)
    page = (folder / "report.html").read_text()
    for section in ("At a glance", "Latency", "From an image file to labels", "Accuracy against latency", "Throughput",
                    "Power, heat and clocks", "Layers", "What int8-cpu answers", "Most mistaken", "Circumstances",
                    "How to repeat this"):  # fmt: skip
        assert f">{section}<" in page, section
    assert page.count("<img ") == 9
    assert "9 that fp32-cpu gets right it gets wrong, 4 the other way round" in page
    assert "inception3a" in page
    assert ("gnet-edge bench runs/signs/fp32-cpu runs/signs/int8-cpu --threads 1 --streams 1 --rounds 40") in page


def test_page_repeats_with_no_number_of_rounds_where_it_was_found_while_measuring() -> None:
    by_itself = replace(INT8, throughput=(BatchThroughput(1, 200.0, samples([(5.0,)] * 10)),))
    assert "--rounds" not in page_of(material(measured(by_itself))).repeat[0]


def test_page_takes_no_name_of_a_bundle_for_an_option() -> None:
    hostile = replace(INT8, name="--host=me@elsewhere")
    assert page_of(material(measured(hostile))).repeat[0].startswith("gnet-edge bench ./--host=me@elsewhere --threads")


def test_page_draws_thousands_of_rounds_as_120() -> None:
    found = plots.by_round([(1.0 + i % 7, 2.0) for i in range(5000)], colour=1)
    assert found.count("<circle") == 120
    assert plots.by_round([(1.0, 2.0)] * 40, colour=1).count("<circle") == 40


def test_page_repeats_with_all_that_the_files_know_and_names_what_they_do_not(folder: Path) -> None:
    (folder / "layers.json").write_text(json.dumps(LAYERS))
    about = answered()
    by = replace(about, bundles=tuple(replace(bundle, backend="openvino") for bundle in about.bundles))
    layers = read_material([folder / "measurement.json", folder / "layers.json"]).layers
    found = page_of(Material((Source("it's.json", on_a_jetson(measured())),), (by, about), layers)).repeat
    bundles = "runs/signs/fp32-cpu runs/signs/int8-cpu"
    assert found == (
        f"gnet-edge bench {bundles} --threads 1 --streams 1 --rounds 40 --device cpu --engine onnxruntime"
        " --sustained 120s --fps 30 --out measurement.json",
        f"gnet-edge eval {bundles} --data signs --engine openvino --out answers.json",
        f"gnet-edge eval {bundles} --data signs --engine onnxruntime --out answers-2.json",
        "gnet-edge sensitivity CHECKPOINT --images 200 --threads 2 --json > layers.json",
        "gnet-edge report measurement.json answers.json answers-2.json layers.json -o report.html",
        "# not known of it's.json: --host, --image (SHA-256 eeeeeeeeeeee, 640×480), --power-mode, --lock-clocks",
        "# not known of the layers: CHECKPOINT, --data, --calibration-images, --method",
    )
    two = measured(FP32, replace(INT8, engine=replace(INT8.engine, backend="openvino")))
    assert "--engine" not in page_of(material(two)).repeat[0], "each bundle had its own"
    assert (
        page_of(material(two)).repeat[-1] == "# not known of m0.json: --host, --image (SHA-256 eeeeeeeeeeee, 640×480)"
    )


def test_page_says_how_long_a_load_lasted_that_was_cut_short() -> None:
    first, second = on_a_jetson(measured()).bundles
    assert first.sustained
    short = replace(first, sustained=replace(first.sustained, ended_s=66.6))
    rows = page_of(material(replace(measured(), bundles=(short, second)))).sustained_table.rows
    assert [row.cells[0] for row in rows] == ["67 of 120 s", "120 s"]


def test_page_says_in_which_order_the_loads_ran() -> None:
    first, second = on_a_jetson(measured()).bundles
    assert first.sustained
    page = page_of(material(on_a_jetson(measured()), measured(replace(first, sustained=None), second)))
    assert page.sustained_order == (
        "One load after the other, so that a later one began on a warmer device: fp32-cpu (m0), then int8-cpu (m0)."
    )
    late = replace(measured(), bundles=(replace(first, sustained=replace(first.sustained, started_s=300.0)), second))
    found = page_of(material(late))
    assert found.sustained_order.endswith(": int8-cpu, then fp32-cpu.")
    assert found.sustained_order in to_html(found).decode()
    assert found.sustained_order in to_markdown(found).decode()
    assert page_of(material(measured())).sustained_order == ""


def test_page_draws_the_interval_of_the_median_around_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the runs of a round are of an even number, as by default."""
    spots: list[Spot] = []
    monkeypatch.setattr(plots, "accuracy_against_latency", lambda found: spots.extend(found) or "")
    page_of(material(measured(with_accuracy(replace(INT8, latency=samples([(3.0, 5.0)] * 6)), 1800))))
    assert (spots[0].latency_ms, spots[0].latency_interval) == (4.0, Interval(4.0, 4.0))


def test_page_says_what_a_difference_is_of_each_metric() -> None:
    """Only most of them have an interval that decides."""
    found = material(measured())
    page = to_html(page_of(found, judge(found, found))).decode()
    assert "Top-1 on the same images differs where McNemar's p is 5 % or less." in page
    assert "Memory, which has no interval, differs from 1.75 % on" in page


def test_page_shows_versions_of_software_without_control_characters_and_not_endless() -> None:
    first = material(measured())
    here = replace(measured().circumstances, packages={"onnx\x1b[31mruntime\u202e": "9" * 500})
    later = material(replace(measured(), circumstances=here))
    software = page_of(later, judge(first, later)).software
    assert software
    assert all(text.isprintable() and len(text) <= 120 for text in software)


def test_page_shows_the_doubts_of_the_measurement() -> None:
    judged = measured(FP32, JUDGED)
    doubtful = replace(judged, warnings=("the machine was busy",))
    assert (verdict(judged).tone, verdict(doubtful).tone) == (Tone.GOOD, Tone.MIXED)
    assert "<li>the machine was busy</li>" in to_html(page_of(material(doubtful))).decode()


def test_accuracies_of_different_images_are_called_so_until_all_bundles_were_judged_together() -> None:
    ours, theirs = (with_accuracy(bundle, 1800) for bundle in (FP32, INT8))
    other = replace(theirs, lineage=replace(theirs.lineage, dataset="d" * 64))
    ours = replace(ours, lineage=replace(ours.lineage, dataset="c" * 64))
    same = replace(other, lineage=ours.lineage)
    apart = Material((Source("m.json", measured(ours, other)),))
    assert "judged on different images" in to_html(page_of(apart)).decode()
    together = (replace(apart, answers=(answered(),)), Material((Source("m.json", measured(ours, same)),)))
    assert all("judged on different images" not in to_html(page_of(found)).decode() for found in together)


def test_page_tells_the_peak_of_a_rail_though_it_draws_means() -> None:
    found = on_a_jetson(measured())
    assert found.watched is not None
    values = [5000.0] * 6000
    values[3000] = 15000.0
    power = Series([i / 10 for i in range(6000)], {"VDD_IN": values})
    page = to_html(page_of(material(replace(found, watched=replace(found.watched, power=power)))))
    assert "VDD_IN (most 15.0 W)" in page.decode()


def test_page_draws_power_and_heat_of_the_sensors_that_said_something() -> None:
    page = to_html(page_of(material(on_a_jetson(measured())))).decode()
    assert "VDD_IN (most 9.0 W)" in page
    assert "VDD_CPU_GPU_CV" in page
    assert "VDD_SOC" not in page
    assert "cpu-thermal (most 54.8 °C)" in page
    assert "GPU clock (most 624.0 MHz)" in page
    assert "33.50 mJ" in page
    assert "+17.8 %" in page
    assert "60 of 3,600" in page
    assert "throttled by the supply: 3 of oc1" in page
    assert re.search(r"power mode</th><td[^>]*>15W<", page)
    assert re.search(r"gpu clock</th><td[^>]*>now mhz 612, low mhz 306, high mhz 624<", page)
    assert "## Power, heat and clocks" in to_markdown(page_of(material(on_a_jetson(measured())))).decode()


def test_page_draws_no_line_across_the_silence_of_a_sensor() -> None:
    found = on_a_jetson(measured())
    assert found.watched is not None
    times = tuple(i / 10 for i in range(6000))
    spoke = tuple(None if 100 <= time < 300 or i % 7 == 0 else 5000.0 for i, time in enumerate(times))
    watched = replace(found.watched, power=Series(times, {"VDD_IN": spoke}), heat=Series((), {}), clocks=Series((), {}))
    [timeline] = page_of(material(replace(found, watched=watched))).telemetry[0].timelines
    lines = re.findall(r'<polyline [^>]*points="([^"]*)"', timeline.drawing)
    assert [len(line.split()) for line in lines] == [40, 120], "240 points, less the 80 in which it said nothing"
    assert timeline.names == ("VDD_IN (most 5.0 W)",)


class Elements(HTMLParser):
    """Every element with its attributes, as a browser sees them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def shape(page: str) -> list[tuple[str, list[str]]]:
    """The elements and the names of their attributes: what a text can only change by breaking out."""
    return [(tag, sorted(attributes)) for tag, attributes in Elements(page).found]


def renamed(text: str) -> Material:
    """A measurement and answers with ``text`` in the place of every text that a file may choose."""
    first = replace(INT8, name=text, engine=replace(INT8.engine, backend=text, version=text))
    found = measured(first)
    here = replace(
        found.circumstances,
        date=text,
        cpu_model=text,
        gpu=text,
        governor=text,
        system=text,
        python=text,
        packages={text: text},
    )
    about = answered(lost=2, gained=0)
    names = tuple(f"{text}{i}" for i in range(len(about.class_names)))
    said = replace(
        about,
        data=text,
        class_names=names,
        images=tuple(f"{text}{i}" for i in range(len(about.images))),
        bundles=tuple(replace(bundle, bundle=text) for bundle in about.bundles),
    )
    return Material((Source(text, replace(found, circumstances=here, warnings=(text,))),), (said,))


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style><b>",
    "{{ 7*7 }}{% raw %}",
    "]]>--><!--",
    "&lt;script&gt;",
    "\x1b[31mred\x00\r\n\u202e",
    "=cmd|'/c calc'!A1",
    "x" * 5000,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_page_shows_hostile_text_as_text(text: str) -> None:
    page = to_html(page_of(renamed(text))).decode()
    assert shape(page) == shape(to_html(page_of(renamed("harmless"))).decode())
    visible = "".join(letter for letter in text if letter.isprintable())[:50]
    assert visible in html.unescape(page)
    assert "\x1b" not in page
    assert "\x00" not in page


@settings(max_examples=25)
@given(st.text(min_size=1))
def test_page_keeps_its_shape_whatever_the_text(text: str) -> None:
    assert shape(to_html(page_of(renamed(text))).decode()) == SHAPE


SHAPE = shape(to_html(page_of(renamed("harmless"))).decode())


def test_page_loads_nothing_and_runs_nothing(folder: Path) -> None:
    done("report", "measurement.json", "answers.json", cwd=folder)
    elements = Elements((folder / "report.html").read_text()).found
    assert not {tag for tag, _ in elements} & {"script", "link", "iframe", "object", "embed", "a", "form"}
    addresses = [value for _, attributes in elements for name, value in attributes.items() if name in ("src", "href")]
    assert all((address or "").startswith("data:image/jpeg;base64,") for address in addresses)
    assert "url(" not in (folder / "report.html").read_text()


def test_page_leaves_out_thumbnails_that_are_no_pictures() -> None:
    about = answered(lost=3, gained=0)
    bad = tuple(Thumbnail(thumbnail.image, b"<svg onload=alert(1)>") for thumbnail in about.thumbnails[:2])
    about = replace(about, thumbnails=(*bad, *about.thumbnails[2:]))
    page = to_html(page_of(Material(material(measured()).sources, (about,)))).decode()
    assert (page.count("no picture"), page.count("<img ")) == (2, 1)


def test_page_tells_bundles_of_the_same_name_apart() -> None:
    labels = [subject.label for subject in subjects_of(material(measured(INT8), measured(INT8)))]
    assert labels == ["int8-cpu (m0)", "int8-cpu (m1)"]


# Text


def test_markdown_holds_the_tables_and_escapes_what_would_be_markup() -> None:
    text = to_markdown(page_of(renamed("a|b <b>*x*</b>"))).decode()
    assert "a\\|b \\<b\\>\\*x\\*\\</b\\>" in text
    assert not re.search(r"(?<!\\)<", text.split("## How to repeat")[0])
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("https://evil.example/a_b", r"https:\//evil.example/a\_b"),
        ("(www.evil.example)", r"(www\.evil.example)"),
        ("WWW.evil.example", r"WWW\.evil.example"),
        ("@someone and @@them", "`@`someone and `@@`them"),
        ("me@evil.example", "me`@`evil.example"),
        ("xmpp:`@`#1", r"xmpp:\``@`\``#`1"),
        ("owner/repository#1", "owner/repository`#`1"),
    ],
)
def test_markdown_links_to_nothing_that_a_file_names_and_calls_nobody(text: str, escaped: str) -> None:
    """As cmark-gfm reads it; GitHub itself looks for names and numbers of issues in what is no code."""
    page = to_markdown(page_of(renamed(text))).decode().split("## How to repeat")[0]
    assert f"- warning: {escaped}\n" in page
    assert f"| {escaped} |" in page
    assert text not in page.replace(escaped, "")


def test_csv_has_a_row_for_every_bundle_and_no_formula() -> None:
    [first, second] = csv.DictReader(io.StringIO(to_csv(subjects_of(material(measured()))).decode()))
    assert (first["bundle"], second["bundle"]) == ("runs/signs/fp32-cpu", "runs/signs/int8-cpu")
    assert float(second["p50_ms"]) == pytest.approx(4.652, abs=1e-3)
    assert (first["ratio"], first["top1"]) == ("", "")
    found, short = measured(), summarize([1.0])
    boasting = [replace(bundle, latency=replace(bundle.latency, summary_ms=short)) for bundle in found.bundles]
    told = material(replace(found, bundles=tuple(boasting), ratios=()))
    assert to_csv(subjects_of(told)) == to_csv(subjects_of(material(found))), "samples are believed, not summaries"
    [row] = csv.DictReader(io.StringIO(to_csv(subjects_of(renamed("=1+1"))).decode()))
    assert (row["bundle"], row["processor"], row["gpu"]) == ("'=1+1",) * 3


def test_stages_of_a_gpu_stand_beside_the_others_where_they_were_measured() -> None:
    first, second = measured().bundles
    times = {DeviceStage.COPY_IN: 0.25, DeviceStage.COMPUTE: 3.5, DeviceStage.COPY_OUT: 0.01}
    stages = {part: samples([(ms,)] * 6) for part, ms in times.items()}
    found = material(measured(first, replace(second, device_stages=stages)))
    text = to_markdown(page_of(found)).decode()
    assert "| sum | inference: copy-in | inference: compute | inference: copy-out |" in text
    assert "| not measured | not measured | not measured |" in text
    assert "| 0.25 | 3.50 | 0.01 |" in text
    assert "inference: compute" in to_html(page_of(found)).decode()
    assert "inference: compute" not in to_markdown(page_of(material(measured()))).decode()
    [cpu, gpu] = csv.DictReader(io.StringIO(to_csv(subjects_of(found)).decode()))
    assert (cpu["compute_ms"], gpu["copy_in_ms"], gpu["compute_ms"], gpu["copy_out_ms"]) == ("", "0.25", "3.5", "0.01")


# What is refused


def altered(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def first_round(found: dict[str, Any]) -> list[float]:
    return found["bundles"][1]["latency"]["rounds_ms"][0]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.update(schema=2), "has schema 2, this version reads up to 1; upgrade googlenet-edge"),
        (lambda m: m.update(bundles=[]), "holds no bundle; measure again with: gnet-edge bench --out FILE"),
        (lambda m: m["bundles"].append(m["bundles"][0]), "holds two bundles of one name; measure each once"),
        (lambda m: m.pop("circumstances"), r"cannot be read: Object missing required field `circumstances`"),
        (lambda m: m["bundles"][1].pop("lineage"), "cannot be read: Object missing required field `lineage`"),
        (lambda m: first_round(m).__setitem__(0, float("nan")), "cannot be read: JSON is malformed: invalid character"),
        (lambda m: first_round(m).__setitem__(0, None), "cannot be read: Expected `float`, got `null`"),
        (lambda m: first_round(m).__setitem__(0, 0.0),
         r"Expected `float` >= 1e-09 - at `\$\.bundles\[1\]\.latency\.rounds_ms\[0\]\[0\]`"),
        (lambda m: first_round(m).__setitem__(0, -3.5), "cannot be read: Expected `float` >= 1e-09"),
        (lambda m: first_round(m).__setitem__(0, 1e300), "cannot be read: Expected `float` <= 1000000000000"),
        (lambda m: m["bundles"][0]["stages"].pop("decode"), "a stage is missing of"),
        (lambda m: m["bundles"][0].update(cold_starts=[]), "cannot be read: Expected `array` of length >= 1"),
        (lambda m: m["bundles"][0].update(throughput=[]), "cannot be read: Expected `array` of length >= 1"),
        (lambda m: m["bundles"][0]["latency"].update(rounds_ms=[[1.0]] * 20_001),
         "Expected `array` of length <= 20000 - at .*latency.rounds_ms"),
        (lambda m: m.update(watched={"power": {"times_s": [0.0], "values": {"VIN": [1.0]}}, "total": ["X"],
         "heat": {"times_s": [], "values": {}}, "throttle_events": None, "core_share": 0.0}),
         "the whole power is that of the rail 'X', which was not"),
        (lambda m: first_round(m).pop(), "latency has no samples, or rounds of different lengths of"),
        (lambda m: m["bundles"][0]["latency"].update(rounds_ms=[[1.0]] * 5), "latency has 5 rounds, at least 6 are"),
        (lambda m: m["bundles"][0].update(bundle_bytes=0), r"Expected `int` >= 1 - at `\$\.bundles.*bundle_bytes`"),
        (lambda m: m["bundles"][0].update(bundle_bytes=10**400), "Expected `int`"),
        (lambda m: m["bundles"][1]["stages"]["decode"].update(rounds_ms=[]), "stage decode has no samples"),
        (lambda m: m["bundles"][0].update(device_stages={"compute": {**m["bundles"][0]["latency"],
         "rounds_ms": [[-1.0]]}}), "Expected `float` >= 1e-09 - at .*device_stages"),
        (lambda m: m["bundles"][0].update(sustained={"plan": {"seconds": 1.0}, "started_s": 0.0, "windows": [],
         "inferences": 1, "frames": 0, "missed": 0}), "cannot be read: sustained for 1 s says nothing about heat"),
        (lambda m: m["bundles"][0].update(sustained={"plan": {"seconds": 60.0}, "started_s": 0.0, "windows": [],
         "inferences": 1, "frames": 0, "missed": 0}), "Expected `array` of length >= 1 - at .*windows"),
        (lambda m: m.update(watched={"power": {"times_s": [0.0, 1.0], "values": {"VDD_IN": [1.0]}}, "total": [],
         "heat": {"times_s": [], "values": {}}, "throttle_events": None, "core_share": 0.0}),
         "power has other moments than values"),
        (lambda m: m.update(watched={"power": {"times_s": [], "values": {}}, "total": [],
         "heat": {"times_s": [], "values": {}}, "throttle_events": None, "core_share": 0.0,
         "clocks": {"times_s": [0.0], "values": {"GPU clock": []}}}), "clock has other moments than values"),
        (lambda m: m["circumstances"].update(cores=0), r"Expected `int` >= 1 - at `\$\.circumstances\.cores`"),
        (lambda m: m["circumstances"].update(cores_of_others=-0.5), "Expected `float` >= 0.0 - at .*cores_of_others"),
        (lambda m: m["ratios"][0].update(interval={"low": 0.4, "high": 0.3}),
         "an interval cannot reach from 0.4 down to 0.3"),
        (lambda m: m["bundles"][0].update(accuracy={"images": 10, "top1": 1.7, "top5": 1.0,
         "top1_interval": {"low": 0.5, "high": 1.8}}), "Expected `float` <= 1.0 - at .*top1`"),
        (lambda m: m["bundles"][0].update(accuracy={"images": 10, "top1": 0.4, "top5": 1.0,
         "top1_interval": {"low": 0.5, "high": 0.8}}), "accuracy is no share between 0 and 1 within its interval of"),
        (lambda m: m["bundles"][0].update(sustained={"plan": {"seconds": 60.0}, "started_s": 0.0, "windows": [
         {"start_s": 0.0, "inferences": 1, "p50_ms": 1.0, "worst_ms": 1.0, "missed": 0}],
         "inferences": 1, "frames": 0, "missed": -1}), "Expected `int` >= 0 - at .*sustained.missed"),
        (lambda m: m.update(watched={"power": {"times_s": [], "values": {}}, "total": [], "core_share": 0.0,
         "heat": {"times_s": [], "values": {}}, "throttle_events": {"oc1": -3}}),
         "Expected `int` >= 0 - at .*throttle"),
    ],
)  # fmt: skip
def test_report_refuses_a_measurement_that_cannot_be(
    change: Callable[[dict[str, Any]], object], sentence: str, folder: Path
) -> None:
    altered(folder / "measurement.json", change)
    refused_without_a_trace(f"measurement.json .*{sentence}.*", "report", "measurement.json", cwd=folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.update(images=0),
        lambda found: found.update(threads=-2),
        lambda found: found.update(latency_ms=0.0),
        lambda found: found["layers"][0].update(flips=-1),
        lambda found: found["layers"][0].update(noise_share=-0.1),
        lambda found: found["layers"][0].update(extra_ms=-1e300),
        lambda found: found["layers"][0].update(slowdown_interval={"low": 1.06, "high": 1.04}),
        lambda found: found["layers"][0].update(slowdown_interval={"low": 1.0, "high": 1e300}),
    ],
)
def test_report_refuses_layers_that_cannot_be(change: Callable[[dict[str, Any]], object], folder: Path) -> None:
    (folder / "layers.json").write_text(json.dumps(LAYERS))
    altered(folder / "layers.json", change)
    refused_without_a_trace(
        r"layers\.json cannot be read: (Expected|an interval).*",
        "report",
        "measurement.json",
        "layers.json",
        cwd=folder,
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda a: a.update(schema=9), "has schema 9, this version reads up to 1; upgrade googlenet-edge"),
        (lambda a: a["labels"].pop(), "is at odds with itself"),
        (lambda a: a["bundles"][0]["predicted"].pop(), "is at odds with itself"),
        (lambda a: a["bundles"][0]["predicted"].__setitem__(0, 9), "is at odds with itself"),
        (lambda a: a["bundles"][0]["predicted"].__setitem__(0, -1), "cannot be read: Expected `int` >= 0"),
        (lambda a: a["thumbnails"][0].update(image=360), "is at odds with itself"),
        (lambda a: a["thumbnails"][0].update(jpeg="no base64!"), "cannot be read: Invalid base64"),
        (lambda a: a.update(images=[], labels=[]), "is at odds with itself"),
    ],
)
def test_report_refuses_answers_that_cannot_be(
    change: Callable[[dict[str, Any]], object], sentence: str, folder: Path
) -> None:
    altered(folder / "answers.json", change)
    refused_without_a_trace(f"answers.json {sentence}.*", "report", "measurement.json", "answers.json", cwd=folder)


def test_report_refuses_measurements_of_different_models(folder: Path) -> None:
    larger = replace(INT8, engine=replace(INT8.engine, classes=1000))
    write_json(folder / "other.json", measured(larger))
    refused_without_a_trace(
        r"'runs/signs/int8-cpu' in other\.json is another model \(224×224 pixels, 1000 classes, labels dddddddd\) than"
        r" 'runs/signs/fp32-cpu' in measurement\.json \(224×224 pixels, 9 classes, labels dddddddd\); make a report of"
        r" each",
        "report", "measurement.json", "other.json", cwd=folder,
    )  # fmt: skip
    write_json(folder / "other.json", measured(replace(INT8, labels_sha256="f" * 64)))
    refused_without_a_trace(r".* is another model .*", "report", "measurement.json", "other.json", cwd=folder)


def test_report_refuses_answers_about_another_model(folder: Path) -> None:
    about = answered()
    (folder / "answers.json").write_bytes(to_json(replace(about, class_names=(*about.class_names, "one more"))))
    sentence = r"the answers about 'signs/val' are of another model \(10 classes\) than 'runs/signs/fp32-cpu' .*"
    refused_without_a_trace(sentence, "report", "measurement.json", "answers.json", cwd=folder)


@pytest.mark.parametrize("path", [".", "/", ".."])
def test_report_of_a_folder_is_refused(path: str, folder: Path) -> None:
    refused_without_a_trace(r"\S+ is a folder; give a file in it", "report", path, cwd=folder)


def test_report_refuses_what_it_cannot_use(folder: Path) -> None:
    for sentence, arguments in (
        ("there is no measurement among the files; make one with: gnet-edge bench --out .*", ["answers.json"]),
        ("missing.json is missing", ["missing.json"]),
        (r"\S+measurement.json is given twice; give each file once", ["measurement.json", "./measurement.json"]),
        ("a report cannot be written as 'x.pdf'; let its name end with .html, .md, .csv",
         ["measurement.json", "-o", "x.pdf"]),
        ("there is no measurement under .*; measure first with: gnet-edge bench --out runs/NAME/measurement.json", []),
    ):  # fmt: skip
        refused_without_a_trace(sentence, "report", *arguments, cwd=folder)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"bundles": []}', b"\xff\xfe", b"[" * 5000, b'{"layers": [1]}'])
def test_report_refuses_files_that_are_something_else(content: bytes, folder: Path) -> None:
    (folder / "measurement.json").write_bytes(content)
    refused_without_a_trace(r"measurement\.json cannot be read: .*", "report", "measurement.json", cwd=folder)


@pytest.mark.parametrize("content", [b"{}", b'{"schema": 99, "ranges": {}}'])
def test_report_refuses_files_of_another_kind_whatever_their_schema(content: bytes, folder: Path) -> None:
    (folder / "calibration.json").write_bytes(content)
    sentence = (
        r"calibration\.json is neither a measurement nor answers nor layers; give what bench --out, eval --out or"
        " sensitivity --json wrote"
    )
    refused_without_a_trace(sentence, "report", "calibration.json", cwd=folder)


SHORT = samples([(4.0 + 0.1 * i, 5.0) for i in range(6)])
BRIEF = replace(INT8, latency=SHORT, stages=dict.fromkeys(Stage, SHORT), throughput=(BatchThroughput(1, 200.0, SHORT),))
SMALL = to_json(measured(BRIEF))


@given(at=st.integers(0, len(SMALL) - 1), damage=st.binary(min_size=1, max_size=4))
def test_report_survives_any_damage(at: int, damage: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A page, or one of our errors; a page where there is no damage."""
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_bytes(SMALL)
    assert page_of(read_material([path]))
    path.write_bytes(SMALL[:at] + damage + SMALL[at + len(damage) :])
    try:
        page_of(read_material([path]))
    except DataError as problem:
        assert "damaged.json" in str(problem)


# The command


def test_report_writes_what_the_suffix_asks_for_beside_the_first_file(folder: Path) -> None:
    outcome = done("report", "measurement.json", cwd=folder)
    assert outcome.err.endswith("its accuracy was not measured.\nreport: report.html\n")
    assert (folder / "report.html").read_bytes().lstrip().startswith(b"<!doctype html>")
    done("report", "measurement.json", "-o", "out/r.md", cwd=folder)
    assert (folder / "out" / "r.md").read_text().startswith("# int8-cpu is 3.0× as fast")
    done("report", "measurement.json", "-o", "r.csv", cwd=folder)
    assert (folder / "r.csv").read_text().startswith("file,bundle,precision,")


def test_report_takes_the_newest_measurement_with_its_answers(folder: Path) -> None:
    run = folder / "runs" / "signs"
    run.mkdir(parents=True)
    for name in ("measurement.json", "answers.json"):
        (folder / name).rename(run / name)
    outcome = done("report", "--json", cwd=folder)
    assert "using runs/signs/measurement.json (the newest under runs/)\n" in outcome.err
    assert "using runs/signs/answers.json (beside it)\n" in outcome.err
    found = json.loads(outcome.out)
    assert (found["report"], found["changes"]) == ("runs/signs/report.html", [])
    assert found["verdict"]["headline"].startswith("int8-cpu is 3.0×")


def test_demo_ends_with_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its steps before that have tests of their own; they take minutes together."""
    steps: list[str] = []

    def step(name: str, write: Callable[[Path], None] | None = None) -> Callable[..., None]:
        def taken(*_: object, out: Path | None = None, **__: object) -> None:
            steps.append(name)
            if write and out:
                write(out)

        return taken

    monkeypatch.setattr("googlenet_edge.pictograms.write_pictograms", step("draw"))
    for name in ("train", "build", "predict"):
        monkeypatch.setattr(demonstration, name, step(name))
    monkeypatch.setattr(demonstration, "bench", step("bench", lambda out: write_json(out, measured())))
    monkeypatch.setattr(demonstration, "evaluate", step("evaluate", lambda out: write_json(out, answered())))
    outcome = done("demo", "here", cwd=tmp_path)
    assert steps == ["draw", "train", "build", "build", "bench", "evaluate", "predict"]
    assert "report: here/report.html\nbundle: here/int8-cpu\n" in outcome.err
    assert "What int8-cpu answers" in (tmp_path / "here" / "report.html").read_text()
    (tmp_path / "here" / "checkpoint.safetensors").touch()
    assert done("demo", "here", cwd=tmp_path).err.startswith("using here/checkpoint.safetensors (trained before; ")
    assert steps.count("train") == 1


def test_answers_and_measurement_of_real_bundles_make_a_page(built: Built, tmp_path: Path) -> None:
    work = copy_of(built.folder, tmp_path / "work")
    done("bench", "--rounds", "6", "--streams", "1", "--out", "m.json", cwd=work)
    done("eval", "runs/photos/fp32-cpu", "runs/photos/int8-cpu", "--out", "a.json", cwd=work)
    done("report", "m.json", "a.json", cwd=work)
    page = (work / "report.html").read_text()
    assert "48 images." in page
    measurement, answers = (json.loads((work / name).read_text()) for name in ("m.json", "a.json"))
    assert measurement["bundles"][1]["accuracy"]["images"] == 48
    assert answers["bundles"][1]["model_sha256"] == measurement["bundles"][1]["model_sha256"]
    assert gnet_edge("report", "a.json", cwd=work).code == 1
