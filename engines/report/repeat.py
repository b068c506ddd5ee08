"""How to measure again what a report shows: commands for a shell, as far as the files know them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import PurePath

from googlenet_edge.engines.answers import Answers
from googlenet_edge.engines.measurement import Measurement
from googlenet_edge.engines.report.material import Layers, Material
from googlenet_edge.engines.report.subjects import shown_text


def repeat_commands(material: Material) -> tuple[str, ...]:
    """What to type, quoted for a shell; comments name what no file knows."""
    named = [
        *((_bench(source.measurement), f"measurement{_suffix(n)}.json") for n, source in enumerate(material.sources)),
        *((_eval(about), f"answers{_suffix(n)}.json") for n, about in enumerate(material.answers)),
    ]
    commands = [f"{command} --out {file}" for command, file in named]
    files = [file for _, file in named]
    for number, found in enumerate(material.layers):
        files.append(f"layers{_suffix(number)}.json")
        commands.append(f"{_sensitivity(found)} > {files[-1]}")
    return (*commands, f"gnet-edge report {' '.join(files)} -o report.html", *_unknown(material))


def _bench(found: Measurement) -> str:
    bundles = found.bundles
    streams = max((batch.streams for bundle in bundles for batch in bundle.throughput), default=1)
    plan = next((bundle.sustained.plan for bundle in bundles if bundle.sustained), None)
    lasting = f" --sustained {plan.seconds:g}s" if plan else ""
    camera = f" --fps {plan.fps:g}" if plan and plan.fps else ""
    return (
        f"gnet-edge bench {_quoted(bundle.name for bundle in bundles)} --threads {bundles[0].engine.threads}"
        f" --streams {streams} --rounds {len(bundles[0].latency.rounds_ms)}"
        f"{_common('--device', (bundle.engine.device.value for bundle in bundles))}"
        f"{_common('--engine', (bundle.engine.backend for bundle in bundles))}{lasting}{camera}"
    )


def _eval(about: Answers) -> str:
    """The images were those of ``val/`` where a folder is divided so."""
    data = PurePath(about.data)
    folder = str(data.parent if data.name == "val" else data)
    engine = _common("--engine", (bundle.backend for bundle in about.bundles))
    return f"gnet-edge eval {_quoted(bundle.bundle for bundle in about.bundles)} --data {_quoted([folder])}{engine}"


def _sensitivity(found: Layers) -> str:
    return f"gnet-edge sensitivity CHECKPOINT --images {found.images} --threads {found.threads} --json"


def _unknown(material: Material) -> list[str]:
    """What the commands leave out, in lines of comment."""
    found = []
    for source in material.sources:
        name, image = shown_text(source.name, most=120), source.measurement.image
        size = f"{shown_text(image.sha256)[:12]}, {image.width}×{image.height}"
        clocks = ", --power-mode, --lock-clocks" if source.measurement.circumstances.jetson else ""
        found.append(f"# not known of {name}: --host, --image (SHA-256 {size}){clocks}")
    if any(bundle.backend is None for about in material.answers for bundle in about.bundles):
        found.append("# not known of the answers: --engine")
    if material.layers:
        found.append("# not known of the layers: CHECKPOINT, --data, --calibration-images, --method")
    return found


def _common(option: str, values: Iterable[str | None]) -> str:
    """The option where it is the same for all; by default each bundle has its own."""
    found = set(values)
    value = found.pop()
    return "" if found or value is None else f" {option} {_quoted([value])}"


def _quoted(texts: Iterable[str]) -> str:
    return " ".join(shlex.quote(shown_text(text)) for text in texts)


def _suffix(place: int) -> str:
    return f"-{place + 1}" if place else ""
