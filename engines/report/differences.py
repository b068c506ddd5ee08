"""In what two measurements differ besides their figures: the machine, its settings, and software."""

from __future__ import annotations

from dataclasses import fields

from googlenet_edge.engines.circumstances import GPU_PACKAGES, Circumstances
from googlenet_edge.engines.jetson import Jetson
from googlenet_edge.engines.report.material import Source
from googlenet_edge.engines.report.subjects import Subject
from googlenet_edge.target import Device

_MAY_DIFFER = {"date", "load_average", "memory_mb", "system", "python", "packages", "jetson", "gpu"}
"""What a gate is there to compare (software), or what differs from boot to boot and from minute to minute.

``jetson`` has a comparison of its own, and ``gpu`` counts where it computes."""


def differing_circumstances(before: Subject, after: Subject) -> tuple[str, ...]:
    """What is another machine or another setting, in words; software may differ."""
    ours, theirs = after.source.measurement.circumstances, before.source.measurement.circumstances
    found = [
        _difference(field.name, getattr(theirs, field.name), getattr(ours, field.name))
        for field in fields(Circumstances)
        if field.name not in _MAY_DIFFER
    ]
    found += _jetson_differences(theirs.jetson, ours.jetson)
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
