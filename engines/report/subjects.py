"""The subjects of a report: every measured bundle with a short name, its accuracy, and its comparisons.

And in what two of them differ besides their figures: the machine, its settings, and software.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import PurePath

from googlenet_edge.engines.accuracy import Accuracy, Comparison, compare
from googlenet_edge.engines.circumstances import GPU_PACKAGES, Circumstances
from googlenet_edge.engines.evaluate import Answers, BundleAnswers
from googlenet_edge.engines.jetson import Jetson
from googlenet_edge.engines.measurement import BundleMeasurement, LatencyRatio, latency_ratio, samples
from googlenet_edge.engines.report.material import Material, Source
from googlenet_edge.statistics import Summary
from googlenet_edge.target import Device, EngineName, Precision

_LONGEST_NAME = 60
_Named = tuple[str, Source, BundleMeasurement]
"""A measured bundle with its label and its file."""

_MAY_DIFFER = {"date", "cores_of_others", "memory_mb", "system", "python", "packages", "jetson", "gpu"}
"""What a gate is there to compare (software), or what differs from boot to boot and from minute to minute.

``jetson`` has a comparison of its own, and ``gpu`` counts where it computes."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A bundle as it was measured once.

    ``label`` is unique in the report; ``number`` is its place there, from 1, and its colour. ``ratio`` compares its
    latency with the reference of its own measurement and ``comparison`` its answers with those of ``compared_with``,
    which may be another one; both are ``None`` for the reference itself, and where nobody measured. ``simulated``: the
    accuracy is not that of the engine itself. ``judged_on``: the SHA-256 of the images of an accuracy that only the
    bundle itself tells, else empty.
    """

    label: str
    number: int
    source: Source
    bundle: BundleMeasurement
    latency_ms: Summary
    ratio: LatencyRatio | None
    accuracy: Accuracy | None
    comparison: Comparison | None
    compared_with: str
    simulated: bool
    judged_on: str

    @property
    def is_reference(self) -> bool:
        """Whether the others of its measurement are compared with it."""
        return self.bundle is reference_of(self.source)


@dataclass(frozen=True, slots=True)
class Pair:
    """A candidate's answers beside those of its reference, about the same images."""

    answers: Answers
    reference: BundleAnswers
    candidate: BundleAnswers


def subjects_of(material: Material) -> tuple[Subject, ...]:
    """All bundles of all measurements, in order."""
    measured = [(source, bundle) for source in material.sources for bundle in source.measurement.bundles]
    labels = _labels(measured)
    named = [(label, *one) for label, one in zip(labels, measured, strict=True)]
    return tuple(_subject(number, named, material.answers) for number in range(1, len(named) + 1))


def unlike_images(subjects: Iterable[Subject]) -> tuple[str, ...]:
    """A warning where the accuracies that bundles tell of themselves are of different images."""
    if len({subject.judged_on for subject in subjects if subject.judged_on}) < 2:
        return ()
    return (
        "the bundles were judged on different images, so the top-1 of one says nothing beside that of another; judge"
        " them together with gnet-edge eval BUNDLES --out answers.json, and report both files",
    )


def reference_of(source: Source) -> BundleMeasurement:
    """The first bundle in FP32, or else the first: as in `bench.ratios`."""
    bundles = source.measurement.bundles
    return next((bundle for bundle in bundles if bundle.precision is Precision.FP32), bundles[0])


def pairs_of(answers: Sequence[Answers]) -> tuple[Pair, ...]:
    """Every bundle that is not FP32 beside the first one that is, or else beside the first."""
    found = []
    for about in answers:
        first = next((b for b in about.bundles if b.precision is Precision.FP32), about.bundles[0])
        found += [Pair(about, first, bundle) for bundle in about.bundles if bundle is not first]
    return tuple(found)


def shown_text(text: str, *, most: int = 300) -> str:
    """Text of a file as it may be shown anywhere: without control characters, and not endless."""
    clean = "".join(letter if letter.isprintable() else "�" for letter in text[: most + 1])
    return clean if len(clean) <= most else f"{clean[: most - 1]}…"


def shown_name(name: str) -> str:
    """The same for the name of a class or a layer, of which a page holds many."""
    return shown_text(name, most=_LONGEST_NAME)


def label_of(found: BundleAnswers, named: Iterable[tuple[str, BundleMeasurement]]) -> str:
    """What a report calls the bundle that answered: as the first measured one, or by its folder and runtime."""
    labels = (label for label, bundle in named if found.is_of(bundle.model_sha256, bundle.engine.backend))
    return next(labels, _joined((_short(found.bundle), found.backend), (1,)))


def _subject(number: int, named: Sequence[_Named], answers: Sequence[Answers]) -> Subject:
    """The one with this number, of all that were measured."""
    label, source, bundle = named[number - 1]
    reference, model = reference_of(source), (bundle.model_sha256, bundle.engine.backend)
    paired = len(bundle.latency.rounds_ms) == len(reference.latency.rounds_ms)
    pair = next((p for p in pairs_of(answers) if p.candidate.is_of(*model)), None)
    alone = (about.evaluation(b) for about in answers for b in about.bundles if b.is_of(*model))
    evaluation = pair.answers.evaluation(pair.candidate) if pair else next(alone, None)
    beside = sorted(named, key=lambda other: other[1] is not source)
    judged = bundle.accuracy_engine.value
    accuracy = bundle.accuracy if judged in (bundle.engine.backend, EngineName.SIMULATED.value) else None
    known = bundle.against_fp32 if accuracy and (evaluation is None or evaluation.accuracy == accuracy) else None
    return Subject(
        label=label,
        number=number,
        source=source,
        bundle=bundle,
        latency_ms=samples(bundle.latency.rounds_ms).summary_ms,
        ratio=latency_ratio(bundle, reference) if paired and bundle is not reference else None,
        accuracy=evaluation.accuracy if evaluation else accuracy,
        comparison=compare(*map(pair.answers.evaluation, (pair.reference, pair.candidate))) if pair else known,
        compared_with=label_of(pair.reference, ((name, other) for name, _, other in beside)) if pair else "FP32",
        simulated=judged == EngineName.SIMULATED.value and evaluation is None,
        judged_on=(bundle.lineage.dataset or "") if accuracy and evaluation is None else "",
    )


def _labels(measured: Sequence[tuple[Source, BundleMeasurement]]) -> list[str]:
    """Of the folder's name, the engine's, the file's and a number, as much as tells the bundles apart."""
    parts = [
        (_short(bundle.name), bundle.engine.backend, _short(source.name.removesuffix(".json")), str(number))
        for number, (source, bundle) in enumerate(measured, start=1)
    ]
    tried = ([_joined(part, which) for part in parts] for which in ((), (1,), (2,), (1, 2)))
    unique = (labels for labels in tried if len(set(labels)) == len(labels))
    return next(unique, [_joined(part, (1, 2, 3)) for part in parts])


def _joined(parts: Sequence[str], which: Sequence[int]) -> str:
    first, others = shown_text(parts[0]), [shown_text(parts[place]) for place in which]
    return f"{first} ({', '.join(others)})" if others else first


def _short(path: str) -> str:
    name = PurePath(path).name or path
    return shown_name(name)


def differing_circumstances(before: Subject, after: Subject) -> tuple[str, ...]:
    """What is another machine or another setting, in words; software may differ."""
    ours, theirs = after.source.measurement.circumstances, before.source.measurement.circumstances
    found = [
        _difference(field.name, getattr(theirs, field.name), getattr(ours, field.name))
        for field in fields(Circumstances)
        if field.name not in _MAY_DIFFER
    ]
    found += _jetson_differences(theirs.jetson, ours.jetson)
    images = ((m.image.width, m.image.height) for m in (before.source.measurement, after.source.measurement))
    found.append(_difference("image", *(f"{width}×{height}" for width, height in images)))
    a, b = before.bundle.engine, after.bundle.engine
    found += [
        _difference("engine", a.backend, b.backend),
        _difference("device", a.device.value, b.device.value),
        _difference("GPU", theirs.gpu, ours.gpu) if b.device is not Device.CPU else "",
        _difference("unit", a.unit.value, b.unit.value),
        _difference("threads", a.threads, b.threads),
    ]
    return tuple(text for text in found if text)


def _jetson_differences(before: Jetson | None, after: Jetson | None) -> list[str]:
    """Module, power mode, and the limits of the clocks, not where they happened to be."""
    if before is None or after is None:
        return [_difference("Jetson", before and before.model, after and after.model)]
    clocks = [
        _difference(name, a and (a.low_mhz, a.high_mhz), b and (b.low_mhz, b.high_mhz))
        for name, a, b in (
            ("CPU clock", before.cpu_clock, after.cpu_clock),
            ("GPU clock", before.gpu_clock, after.gpu_clock),
        )
    ]
    return [
        _difference("Jetson", before.model, after.model),
        _difference("power mode", before.power_mode, after.power_mode),
        *clocks,
    ]


def software_changes(before: Source, after: Source) -> tuple[str, ...]:
    """Versions that differ: no reason to refuse, but to be told."""
    old, new = before.measurement.circumstances, after.measurement.circumstances
    of_no_gpu = frozenset() if after.measurement.on_gpu else GPU_PACKAGES
    names = sorted({*old.packages, *new.packages} - of_no_gpu)
    found = [_difference(name, old.packages.get(name), new.packages.get(name)) for name in names]
    jetsons = old.jetson, new.jetson
    found += [_difference("JetPack", *(jetson and jetson.jetpack for jetson in jetsons))]
    found += [_difference("Python", old.python, new.python), _difference("system", old.system, new.system)]
    return tuple(text for text in found if text)


def _difference(name: str, before: object, after: object) -> str:
    return "" if before == after else f"{name} {before} against {after}"
