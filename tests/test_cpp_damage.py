"""libgne given damaged, forged and odd files: it refuses what Python refuses, and never crashes."""

from __future__ import annotations

import ctypes
import functools
import io
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fuzz_seeds
import libgne
import numpy as np
import pytest
from jpegs import jpeg, photo, with_scans
from libgne import CPP, Engine, Library, done
from PIL import Image
from tiny_bundles import (
    COLOUR_NET,
    colour_bundle,
    onnx_bytes,
    solid,
    with_golden_logits,
    with_weights_elsewhere,
    write_colour_bundle,
)

import googlenet_edge
from googlenet_edge.engines.bundle import LOGIT_TOLERANCE, Golden, write_bundle
from googlenet_edge.engines.predictor import Predictor
from googlenet_edge.errors import EdgeError
from googlenet_edge.files import is_name, sha256_bytes
from googlenet_edge.images import decode_rgb
from googlenet_edge.target import Precision

FILES = ("manifest.json", "model.onnx", "labels.txt", "golden.bin")
Change = Callable[[bytes], bytes]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_colour_bundle(tmp_path / "bundle")


def refusal(gne: Library, bundle: Path) -> str:
    """The text with which a bundle is refused."""
    with pytest.raises(libgne.Failed) as caught, gne.open(bundle):
        pass
    assert caught.value.status == libgne.BAD_BUNDLE
    return str(caught.value)


def opens(gne: Library, bundle: Path) -> bool:
    try:
        with gne.open(bundle):
            return True
    except libgne.Failed:
        return False


def opens_in_python(bundle: Path) -> bool:
    try:
        with googlenet_edge.load(bundle):
            return True
    except EdgeError:
        return False


END = b'"\n}\n'


def seal(bundle: Path, text: bytes) -> None:
    """Writes a manifest, in which its own hash is empty, with the one that fits."""
    (bundle / "manifest.json").write_bytes(text.removesuffix(END) + sha256_bytes(text).encode() + END)


def forge(bundle: Path, **changes: object) -> None:
    """Writes other members into the manifest, and the hash that fits."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    seal(bundle, (json.dumps({**manifest, **changes, "sha256": ""}, indent=2) + "\n").encode())


def insert(bundle: Path, text: bytes) -> None:
    """Writes a text as the value of a new member, whatever it is, into the manifest, and the hash that fits."""
    whole = (bundle / "manifest.json").read_bytes()
    seal(bundle, b'{"new": ' + text + b"," + whole[1 : -len(END) - 64] + END)


def record(bundle: Path, name: str, **changes: object) -> None:
    """Writes other things of a file into the manifest, and the hash that fits."""
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    forge(bundle, files={**files, name: {**files[name], **changes}})


def relabel(bundle: Path, first: str) -> None:
    """Writes another first label, and the hashes that fit."""
    _, *others = (bundle / "labels.txt").read_text().splitlines()
    data = "".join(f"{label}\n" for label in (first, *others)).encode(errors="surrogateescape")
    (bundle / "labels.txt").write_bytes(data)
    record(bundle, "labels.txt", size=len(data), sha256=sha256_bytes(data))


def test_cpp_refuses_every_changed_byte_of_a_manifest_as_python_does(gne: Library, bundle: Path) -> None:
    file = bundle / "manifest.json"
    whole = file.read_bytes()
    assert opens(gne, bundle)
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0x02
        file.write_bytes(changed)
        assert not opens(gne, bundle), f"byte {place}"
        assert place % 16 or not opens_in_python(bundle), f"byte {place}"


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize(
    "change", [lambda b: b[:-1], lambda b: b + b"\n", lambda b: bytes([b[0] ^ 1]) + b[1:], lambda _: b""]
)
def test_cpp_names_the_file_that_was_changed(gne: Library, bundle: Path, name: str, change: Change) -> None:
    (bundle / name).write_bytes(change((bundle / name).read_bytes()))
    text = refusal(gne, bundle)
    assert text.startswith(f"{bundle / name} ")
    assert "was changed or damaged since it was written" in text or "it is not what it should be" in text


def swapped(bundle: Path) -> None:
    labels = (bundle / "labels.txt").read_bytes()
    (bundle / "labels.txt").write_bytes((bundle / "golden.bin").read_bytes())
    (bundle / "golden.bin").write_bytes(labels)


def piped(bundle: Path) -> None:
    (bundle / "labels.txt").unlink()
    os.mkfifo(bundle / "labels.txt")


def multiply_golden(bundle: Path, count: int) -> None:
    """So many golden vectors, all alike, and the hashes that fit."""
    made = colour_bundle()
    golden = Golden(made.golden.pixels[:1].repeat(count, axis=0), made.golden.logits[:1].repeat(count, axis=0))
    shutil.rmtree(bundle)
    write_bundle(bundle, replace(made, golden=golden))


def infinite_golden(bundle: Path) -> None:
    """Logits that are as far from any others as they are large."""
    shutil.rmtree(bundle)
    write_bundle(bundle, with_golden_logits(colour_bundle(), np.full((2, 3), np.inf)))


NO_BUNDLE = " is not a bundle: it has no manifest.json; give a folder that gnet-edge build wrote"
WHOLE = {"resize": 36, "crop": 32, "mean": [127.5] * 3, "std": [127.5] * 3}
ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing model": (lambda b: (b / "model.onnx").unlink(), "model.onnx is missing; copy the whole bundle again"),
    "extra file": (lambda b: (b / "x.plan").touch(), "x.plan does not belong to the bundle; remove it"),
    "swapped": (swapped, "labels.txt"),
    "a pipe": (piped, "labels.txt is not a file"),
    "endless link": (
        lambda b: (shutil.rmtree(b), b.symlink_to(b)),
        "manifest.json cannot be read: Too many levels of symbolic links",
    ),
    "no manifest": (lambda b: (b / "manifest.json").unlink(), "is not a bundle: it has no manifest.json; give a"),
    "a folder": (lambda b: ((b / "model.onnx").unlink(), (b / "model.onnx").mkdir()), "model.onnx is not a file"),
    "newer schema": (lambda b: forge(b, schema=4), "has schema 4, this libgne reads 3; upgrade libgne"),
    "older schema": (lambda b: forge(b, schema=2), "has schema 2, this libgne reads 3; build the bundle again"),
    "schema of a float": (lambda b: forge(b, schema=2.5), "2.5 is not a whole number"),
    "device": (lambda b: forge(b, device="jetson"), "is built for the device jetson, which this libgne does not know"),
    "precision": (lambda b: forge(b, precision="int4"), 'the precision "int4" is unknown'),
    "precision in letters that steer": (lambda b: forge(b, precision="\x1b[2J"), "the precision is unknown; copy"),
    "device in letters that steer": (lambda b: forge(b, device="\x1b]0;x\x07cpu"), "the device is unknown; copy"),
    "unit in letters that turn": (lambda b: forge(b, unit="\u202egnp"), "the unit is unknown; copy"),
    "a long device": (lambda b: forge(b, device="x" * 9000), "the device is unknown; copy the bundle again, or build"),
    "a long number": (lambda b: forge(b, weight_bits=10**40), "a long number is not a whole number of 7 to 8; copy"),
    "DLA of a processor": (lambda b: forge(b, unit="dla"), "is built for the device cpu, and for a DLA, which a"),
    "a file in letters that steer": (
        lambda b: (b / "\x1b[2J\u202ex\n").touch(),
        "/?[2J?x  does not belong to the bundle; remove it",
    ),
    "65 golden vectors": (lambda b: multiply_golden(b, 65), "has golden vectors that do not fit it"),
    "no golden vectors": (lambda b: multiply_golden(b, 0), "has golden vectors that do not fit it"),
    "infinite golden logits": (infinite_golden, "has a golden logit that is not finite; build it again"),
    "a size": (lambda b: record(b, "labels.txt", size=99), "labels.txt was changed or damaged since it was written"),
    "resize": (lambda b: forge(b, preprocess={**WHOLE, "resize": 4097}), "4097 is not a whole number of 1 to 4096"),
    "crop": (lambda b: forge(b, preprocess={"resize": 36, "crop": 37}), "37 is not a whole number of 1 to 36"),
    "crop of the model": (lambda b: forge(b, preprocess={**WHOLE, "crop": 16}), "golden vectors that do not fit"),
    "no weight bits": (lambda b: forge(b, weight_bits=None), "a value is not a number"),
    **{
        f"label {label!a}": (
            functools.partial(relabel, first=label),
            "has an empty label, or one with a character that steers or cannot be seen; build it again",
        )
        for label in ("", "a\0", "\x1b[2J", "a\x7f", "a\x9b2J", *"\u200b\u202e\u2028\ufeff\U000e0041")
    },
    **{
        f"label {label!a}": (functools.partial(relabel, first=label), "has labels that are not UTF-8; build it again")
        for label in ("\udcff", "\udcc1\udca1", "\udced\udca0\udc80", "\udcf4\udc90\udc80\udc80", "\udcc3")
    },
    "files": (lambda b: forge(b, files={}), "lists the wrong files; build the bundle again"),
    "up and away": (lambda b: forge(b, files={"../x": {"size": 1, "sha256": "a" * 64}}), "lists the wrong files"),
}


@pytest.mark.parametrize(("change", "words"), ODD.values(), ids=ODD)
def test_cpp_says_what_is_odd_about_a_bundle(
    gne: Library, bundle: Path, change: Callable[[Path], object], words: str
) -> None:
    change(bundle)
    text = refusal(gne, bundle)
    assert words in text
    assert is_name(text), "nothing in it steers a terminal"
    assert not opens_in_python(bundle)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "there are too many levels"),
        (b'1, "new": 1', "a name stands twice"),
        (b"1} {", "something follows the value"),
        (b"01", "a character is out of place"),
        (b"1.", "a digit is missing"),
        (b"nul", "a word is unknown"),
        (b'"\n"', "a control character stands in a string"),
        (b'"\xff"', "a string is not UTF-8"),
        (rb'"\x"', "an escape is unknown"),
        (rb'"\u12g4"', "an escape is cut off"),
        (rb'"\ud800"', "half a surrogate pair stands alone"),
        (rb'"\ud800\u0041"', "half a surrogate pair stands alone"),
        (rb'"\udc00\udc00"', "half a surrogate pair stands alone"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_cpp_refuses_what_is_no_json(gne: Library, bundle: Path, value: bytes, words: str) -> None:
    insert(bundle, rb'"\ud83d\ude00 \" \\ \/ \b\f\n\r\t", "x": [-1.5e+9, true, null, {}]')
    assert opens(gne, bundle)
    insert(bundle, value)
    assert re.search(rf"manifest\.json cannot be read: {words} at byte \d+; copy the bundle", refusal(gne, bundle))


def test_cpp_sentences_of_long_paths_end_with_what_to_do_and_with_a_whole_letter(gne: Library) -> None:
    folder = Path("/".join(["µ" * 100] * 15))
    assert refusal(gne, folder).endswith("/" + folder.name + NO_BUNDLE)
    for beyond in ("µ" * 5000, "x" + "µ" * 5000):
        assert refusal(gne, Path(beyond)).startswith(beyond[:4000])  # decoded from UTF-8


def test_cpp_opens_a_bundle_whatever_the_members_say_that_it_does_not_use(gne: Library, bundle: Path) -> None:
    forge(bundle, engine="of a later version", preprocess={"resize": 36, "crop": 32, "mean": "unknown"}, lineage=None)
    assert opens(gne, bundle)


def test_cpp_takes_labels_of_all_letters(gne: Library, bundle: Path) -> None:
    relabel(bundle, "µ-Gänseblümchen\u00a0雛菊 \u200d\U0001fae8 \uf8ff")
    pixels = np.full((40, 40, 3), (255, 0, 0), np.uint8)
    with gne.open(bundle) as engine:
        [(label, _, _)] = engine.classify("frame", ctypes.byref(libgne.interleaved(pixels)), k=1)
    assert label == "µ-Gänseblümchen\u00a0雛菊 \u200d\U0001fae8 \uf8ff"


def test_cpp_refuses_a_model_with_weights_outside_of_the_bundle(
    gne: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = colour_bundle()
    write_bundle(tmp_path / "b", replace(bundle, model=with_weights_elsewhere(bundle.model, "weights.bin")))
    assert refusal(gne, tmp_path / "b") == (
        f"{tmp_path}/b/model.onnx keeps weights in another file, which no hash covers; build the bundle again"
    )


@pytest.mark.parametrize(
    ("name", "most"),
    [("model.onnx", 1 << 30), ("golden.bin", 1 << 30), ("labels.txt", 1 << 24), ("manifest.json", 1 << 20)],
)
def test_cpp_reads_no_file_that_is_larger_than_any_bundle_has(gne: Library, bundle: Path, name: str, most: int) -> None:
    if name != "manifest.json":
        record(bundle, name, size=most + 1, sha256="0" * 64)
    os.truncate(bundle / name, most + 1)  # it takes no room on the disk
    assert refusal(gne, bundle) == (
        f"{bundle / name} has {most + 1} bytes where at most {most} are expected; it is not what it should be"
    )


@pytest.mark.parametrize("precision", Precision)
def test_cpp_refuses_a_model_that_computes_something_else_here(
    gne: Library, tmp_path: Path, precision: Precision
) -> None:
    """A black image, whose logits are -4 each, and golden ones that are a little too large or too small."""
    golden, allowed = Golden(np.zeros((1, 32, 32, 3), np.uint8), np.full((1, 3), -4.0)), LOGIT_TOLERANCE[precision]
    for factor in (1 - 0.95 * allowed, 1 + 0.95 * allowed, 1 - 1.07 * allowed, 1 + 1.1 * allowed):
        bundle = replace(colour_bundle(precision), golden=golden)
        write_bundle(tmp_path / "b", with_golden_logits(bundle, golden.logits * factor))
        if abs(factor - 1) < allowed:
            assert opens(gne, tmp_path / "b") and opens_in_python(tmp_path / "b"), factor
            continue
        assert refusal(gne, tmp_path / "b") == (
            f"{tmp_path / 'b'} computes something else on this machine: its golden logits differ by"
            f" {4 * abs(factor - 1):.3g}, at most {4 * factor * allowed:.3g} is allowed for {precision.value};"
            " upgrade the runtime, or build the bundle here"
        )


def test_cpp_refuses_a_model_whose_logits_are_no_numbers(gne: Library, tmp_path: Path) -> None:
    """Two of three; the third is the golden one."""
    model = onnx_bytes(
        COLOUR_NET.replace("logits = Gemm", "signed = Gemm").replace("\n}", "\nlogits = Sqrt (signed) }")
    )
    golden = Golden(np.full((1, 32, 32, 3), (0, 0, 255), np.uint8), np.array([[0, 0, 2]], np.float32))
    write_bundle(tmp_path / "b", replace(colour_bundle(), model=model, golden=golden))
    assert "its golden logits differ by nan, at most 0.002 is allowed" in refusal(gne, tmp_path / "b")


def test_cpp_refuses_a_model_that_gives_more_logits_than_it_says(gne: Library, tmp_path: Path) -> None:
    model = COLOUR_NET.replace("logits = Gemm", "once = Gemm").replace(
        "\n}", "\nlogits = Concat <axis = 0> (once, once) }"
    )
    write_bundle(tmp_path / "b", replace(colour_bundle(), model=onnx_bytes(model)))
    assert "the model is not one that gnet-edge lowered: expected one input" in refusal(gne, tmp_path / "b")


def test_cpp_refuses_what_is_no_model(gne: Library, tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", replace(colour_bundle(), model=b"no model"))
    with pytest.raises(libgne.Failed, match="ONNX Runtime cannot load the model") as caught, gne.open(tmp_path / "b"):
        pass
    assert caught.value.status == libgne.BAD_RUNTIME


def test_cpp_prints_nothing_about_a_model_that_fails(
    gne: Library, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It takes the row of an image that is not in the batch."""
    rows = "at = Cast <to = 7> (largest) row = Gather (flat, at) rows = Add (flat, row) logits = Gemm"
    fails = COLOUR_NET.replace("logits = Gemm", f"largest = ReduceMax <keepdims = 0> (images) {rows}")
    model = onnx_bytes(fails.replace("(flat, fc_weight", "(rows, fc_weight"))
    write_bundle(tmp_path / "b", replace(colour_bundle(), model=model))
    with (
        pytest.raises(libgne.Failed, match="ONNX Runtime failed on a batch .*Gather") as caught,
        gne.open(tmp_path / "b"),
    ):
        pass
    assert caught.value.status == libgne.BAD_RUNTIME
    assert capfd.readouterr() == ("", "")


OTHER_KINDS = {
    "floats": COLOUR_NET.replace("Cast <to = 1> (planes)", "Identity (planes)").replace("uint8[", "float["),
    "no square": COLOUR_NET.replace("N, 32, 32, 3", "N, 32, 16, 3"),
    "no rows": """
<ir_version: 8, opset_import: ["" : 17]>
scalars (uint8[N] pixels) => (float[N, 3] logits) <int64[1] axis = {1}>
{
    scalars = Cast <to = 1> (pixels)
    column = Unsqueeze (scalars, axis)
    logits = Concat <axis = 1> (column, column, column)
}
""",
    "two outputs": COLOUR_NET.replace("logits)\n<", "logits, float[N, 3] flat)\n<"),
    "a sequence": COLOUR_NET.replace("(float[N, 3] logits)", "(seq(float[N, 3]) logits)")
    .replace("logits = Gemm", "row = Gemm")
    .replace("\n}", "\nlogits = SequenceConstruct (row) }"),
}


@pytest.mark.parametrize("text", OTHER_KINDS.values(), ids=OTHER_KINDS)
def test_cpp_refuses_a_model_of_another_kind(gne: Library, tmp_path: Path, text: str) -> None:
    write_bundle(tmp_path / "b", replace(colour_bundle(), model=onnx_bytes(text)))
    assert "expected one input uint8 (N, crop, crop, 3) and one output float32 (N, classes)" in refusal(
        gne, tmp_path / "b"
    )


def test_cpp_refuses_a_model_for_a_smaller_square(gne: Library, tmp_path: Path) -> None:
    made = colour_bundle()
    manifest = replace(made.manifest, preprocess=replace(made.manifest.preprocess, crop=16))
    golden = Golden(made.golden.pixels[:, :16, :16], made.golden.logits)
    write_bundle(tmp_path / "b", replace(made, manifest=manifest, golden=golden))
    assert "the model takes 32 pixels and gives 3 classes, the manifest says 16 and 3" in refusal(gne, tmp_path / "b")


def test_cpp_refuses_a_model_with_other_classes(gne: Library, tmp_path: Path) -> None:
    bundle = colour_bundle()
    golden = Golden(bundle.golden.pixels, np.ones((2, 4), np.float32))
    write_bundle(tmp_path / "b", replace(bundle, class_names=("a", "b", "c", "d"), golden=golden))
    assert "the model takes 32 pixels and gives 3 classes, the manifest says 32 and 4" in refusal(gne, tmp_path / "b")


def test_cpp_opens_no_forged_manifest_that_python_refuses(gne: Library, bundle: Path) -> None:
    """Values of every kind in the place of every member that libgne reads."""
    values = (None, True, -1, 0, 2, 8.0, 1e400, 2**70, "", "cpu", "dla", "ü", [], {}, {"resize": 36, "crop": 33})
    whole = (bundle / "manifest.json").read_bytes()
    for member in ("precision", "device", "unit", "preprocess", "weight_bits", "files"):
        for value in values:
            (bundle / "manifest.json").write_bytes(whole)
            forge(bundle, **{member: value})
            assert not (opens(gne, bundle) and not opens_in_python(bundle)), (member, value)


def test_cpp_hashes_are_sha256_with_the_processors_instructions_and_without(gne_prefix: Path, tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, 200, np.uint8).tobytes()
    (tmp_path / "data").write_bytes(data)
    lines = done(gne_prefix.parent / "build" / "tests" / "hashes", tmp_path / "data").splitlines()
    assert lines == [" ".join([sha256_bytes(data[:size])] * 2) for size in range(201)]


def damaged(data: bytes, seed: int) -> bytes:
    """A few flipped bits, a cut, or a piece too few."""
    dice = random.Random(seed)
    changed = bytearray(data)
    match seed % 3:
        case 0:
            for _ in range(dice.randint(1, 4)):
                changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
        case 1:
            del changed[dice.randrange(len(changed)) :]
        case _:
            start = dice.randrange(len(changed))
            del changed[start : start + dice.randint(1, 40)]
    return bytes(changed)


def read_by_both(engine: Engine, predictor: Predictor, data: bytes) -> tuple[bytes, bytes]:
    """The pixels of a JPEG by libgne and by Python; ``refused`` where there are none."""
    try:
        expected = predictor.preprocess.pixels(decode_rgb(data, short_side=36)).tobytes()
    except EdgeError:
        expected = b"refused"
    try:
        return engine.pixels_of_jpeg(data).tobytes(), expected
    except libgne.Failed as problem:
        assert problem.status == libgne.BAD_IMAGE
        return b"refused", expected


def test_cpp_reads_and_refuses_damaged_jpegs_as_python_does(gne: Library, bundle: Path) -> None:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(noise).resize((90, 70)).save(file, "JPEG", quality=80)
    agree = differ = 0
    with gne.open(bundle) as engine, googlenet_edge.load(bundle) as predictor:
        for seed in range(900):
            found, expected = read_by_both(engine, predictor, damaged(file.getvalue(), seed))
            agree, differ = agree + (found == expected), differ + (found != expected)
    assert differ <= 5, "but for headers that only one of the two decoders puts up with"
    assert agree >= 895


ENDINGS = {
    "cut": b"",
    "half a marker": b"\xff",
    "two zeros": bytes(2),
    "zeros": bytes(16),
    "a comment that is cut off": b"\xff\xfe\xff\xff",
    "zeros and a cut segment": bytes(16) + b"\xff\xe1\xff\xff...",
    "a second frame": b"\xff\xc0\0\x0b\x08\0\x10\0\x10\1\1\x11\0\xff\xd9",
}


@pytest.mark.parametrize("kind", ["4:2:0", "4:2:2", "4:4:4", "progressive", "L", "CMYK"])
def test_cpp_reads_jpegs_whose_end_marker_is_missing_as_python_does(gne: Library, bundle: Path, kind: str) -> None:
    """Whether the last rows are whole before the end marker depends on the sampling and on how many bits follow."""
    options = {"subsampling": kind} if ":" in kind else {"progressive": kind == "progressive"}
    decoded = 0
    with gne.open(bundle) as engine, googlenet_edge.load(bundle) as predictor:
        for name, ending in ENDINGS.items():
            for width, height in ((48, 40), (90, 70), (301, 200)):
                image = photo(width, height).convert(kind if kind in {"L", "CMYK"} else "RGB")
                found, expected = read_by_both(engine, predictor, jpeg(image, **options)[:-2] + ending)
                assert found == expected, (name, width)
                decoded += found != b"refused"
    assert (decoded > 0) == (kind != "progressive"), "a progressive one is read to its end before its first row"


def test_cpp_reads_100_scans_of_a_jpeg_as_python_does_and_refuses_more(gne: Library, bundle: Path) -> None:
    """A scan takes the time of all pixels, and a few bytes: so a small file could take hours."""
    with gne.open(bundle) as engine, googlenet_edge.load(bundle) as predictor:
        found, expected = read_by_both(engine, predictor, with_scans(100))
        assert found == expected != b"refused"
        with pytest.raises(libgne.Failed) as caught:
            engine.pixels_of_jpeg(with_scans(101))
    sentence = "the image cannot be decoded: it has more than 100 scans; replace or remove it"
    assert (caught.value.status, str(caught.value)) == (libgne.BAD_IMAGE, sentence)


def enlarged(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header says that it is larger."""
    frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    return data[: frame + 5] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[frame + 9 :]


def test_cpp_decodes_no_image_of_more_pixels_or_bytes_than_python(gne: Library, bundle: Path, tmp_path: Path) -> None:
    large = enlarged(jpeg(photo(16, 16)), 20_000, 20_000)
    (tmp_path / "0.jpg").write_bytes(large)
    (tmp_path / "1.jpg").write_bytes(large)
    os.truncate(tmp_path / "1.jpg", (256 << 20) + 1)  # it takes no room on the disk
    with gne.open(bundle) as engine:
        for name, words in {
            "0.jpg": "cannot be decoded: it has 20000×20000 pixels, at most 150 megapixels",
            "1.jpg": "has 268435457 bytes",
        }.items():
            with pytest.raises(libgne.Failed, match=f"{name} {words}") as caught:
                engine.classify("file", bytes(tmp_path / name))
            assert caught.value.status == libgne.BAD_IMAGE


@pytest.mark.parametrize("progressive", [False, True])
def test_cpp_says_of_a_jpeg_that_it_is_cut_off(gne: Library, bundle: Path, progressive: bool) -> None:
    whole = jpeg(photo(90, 70), progressive=progressive)
    with gne.open(bundle) as engine:
        for end in (10, 200, len(whole) // 2):
            with pytest.raises(libgne.Failed) as caught:
                engine.pixels_of_jpeg(whole[:end])
            assert str(caught.value) == "the image cannot be decoded: it is cut off; replace or remove it"


def test_cpp_refuses_a_jpeg_of_two_colours_as_python_does(gne: Library, bundle: Path) -> None:
    frame, scan = b"\xff\xc0\0\x0b\x08\0\x10\0\x10\1\1\x11\0", b"\xff\xda\0\x08\1\1\0"
    grey = jpeg(photo(16, 16).convert("L"))
    assert frame in grey and scan in grey
    both = grey.replace(frame, frame[:3] + b"\x0e" + frame[4:9] + b"\2" + frame[10:] + b"\2\x11\0")
    with gne.open(bundle) as engine, googlenet_edge.load(bundle) as predictor:
        data = both.replace(scan, scan[:3] + b"\x0a\2" + scan[5:] + b"\2\0")
        assert read_by_both(engine, predictor, data) == (b"refused", b"refused")


def answers_in_400_mb(prefix: Path, folder: Path, small: bytes) -> subprocess.CompletedProcess[str]:
    """What libgne says of a JPEG, and of one whose header says that its pixels take 450 MB, none of which is shrunk."""
    made = colour_bundle()
    large = replace(made.manifest, preprocess=replace(made.manifest.preprocess, resize=4096))
    write_bundle(folder / "b", replace(made, manifest=large))
    (folder / "0.jpg").write_bytes(small)
    (folder / "1.jpg").write_bytes(enlarged(small, 15_000, 10_000))
    limit = 400 << 20
    return subprocess.run(
        [prefix.parent / "build" / "tests" / "answers", *map(folder.joinpath, ("b", "0.jpg", "1.jpg"))],
        env={**os.environ, "GNE_ONNXRUNTIME": str(libgne.wheel_runtime())},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )


def lying() -> Image.Exif:
    """Which says that the rows of the file are columns."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize("kind", [{"exif": lying()}, {"progressive": True}], ids=["rows", "coefficients"])
def test_cpp_lack_of_memory_is_not_blamed_on_the_image(
    gne_prefix: Path, tmp_path: Path, kind: dict[str, object]
) -> None:
    """Of a progressive JPEG libjpeg keeps the coefficients, and fails by itself; a turned one is held as a whole."""
    ended = answers_in_400_mb(gne_prefix, tmp_path, jpeg(photo(16, 16), **kind))
    assert len(ended.stdout.splitlines()) == 1, "the small one is read"
    assert ended.stderr == "there is not enough memory; free some, or use smaller images, or fewer at once\n"


def test_cpp_lack_of_memory_for_a_batch_is_not_blamed_on_the_runtime(gne_prefix: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", colour_bundle())
    program = """
import resource, sys
from pathlib import Path
import numpy as np, libgne
library, bundle = sys.argv[1:]
with libgne.load(Path(library)).open(Path(bundle)) as engine:
    pixels = np.zeros((60_000, 32, 32, 3), np.uint8)
    engine.run(pixels[:1])
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (50 << 20),) * 2)
    try:
        engine.run(pixels)
    except libgne.Failed as problem:
        print(problem.status, problem)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, gne_prefix / "lib" / "libgne.so", tmp_path / "b"],
        env={**os.environ, "GNE_ONNXRUNTIME": str(libgne.wheel_runtime()), "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    said = f"{libgne.NO_MEMORY} there is not enough memory; free some, or use smaller images, or fewer at once\n"
    assert (ended.stdout, ended.stderr) == (said, "")


CREATING = {"env": 3, "session": 8, "logits": 9, "options": 10, "input": 33, "output": 34, "input's name": 36}
CREATING |= {"output's name": 37, "tensor": 49, "data": 51, "shape": 65, "memory": 69, "allocator": 78}


def test_cpp_a_runtime_without_memory_for_a_status_has_not_succeeded(
    gne: Library, bundle: Path, tmp_path: Path
) -> None:
    """It then returns what it returns after a success."""
    counting = libgne.counting_runtime(tmp_path)
    for what, slot in CREATING.items():
        counting.let_idle(slot)
        with pytest.raises(libgne.Failed) as caught, gne.open(bundle, runtime=counting._name):
            pass
        assert caught.value.status == libgne.NO_MEMORY, what
    counting.let_idle(-1)
    with gne.open(bundle, runtime=counting._name):
        pass


def test_cpp_rows_of_an_upright_photo_are_not_all_in_memory(gne_prefix: Path, tmp_path: Path) -> None:
    ended = answers_in_400_mb(gne_prefix, tmp_path, jpeg(photo(16, 16)))
    assert (len(ended.stdout.splitlines()), ended.stderr) == (2, "")


def with_clang(folder: Path) -> tuple[str, ...]:
    """Options for clang where it is installed with its sanitizers, so that its warnings are seen, too."""
    command = ("-fsanitize=address", "-x", "c++", "-", "-o", str(folder / "probe"))
    probe = subprocess.run(
        ["sh", "-c", 'echo "int main() {}" | clang++ "$@"', "sh", *command], capture_output=True, check=False
    )
    return ("-DCMAKE_C_COMPILER=clang", "-DCMAKE_CXX_COMPILER=clang++") if probe.returncode == 0 else ()


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of ``engines/cpp/tests`` with AddressSanitizer and UndefinedBehaviorSanitizer."""
    libgne.need_tools()
    build = tmp_path_factory.mktemp("sanitized")
    options = ("-DCMAKE_BUILD_TYPE=Debug", "-DGNE_WERROR=ON", "-DGNE_TESTS=ON", "-DGNE_SANITIZE=address,undefined")
    done("cmake", "-S", CPP, "-B", build, *options, *with_clang(build))
    done(
        "cmake", "--build", build, "--target", "torture", "--target", "crowd", "--target", "resizes", "--parallel", "2"
    )
    return build / "tests"


def test_cpp_fuzzing_begins_with_images_and_a_manifest_that_are_whole(
    gne: Library, bundle: Path, tmp_path: Path
) -> None:
    fuzz_seeds.main(tmp_path / "fuzz")
    seeds = {seed.name: seed.read_bytes() for seed in sorted((tmp_path / "fuzz").glob("*/seed-*"))}
    assert max(map(len, seeds.values())) <= 8192, "as -max_len in the Makefile"
    (bundle / "manifest.json").write_bytes(seeds["seed-manifest"])
    (bundle / "labels.txt").write_bytes(seeds["seed-labels"])
    with gne.open(bundle) as engine:
        for image in (tmp_path / "fuzz" / "image").iterdir():
            engine.pixels_of_jpeg(image.read_bytes())


def tally(*command: object) -> dict[str, int]:
    """How often each status came."""
    environment = {**os.environ, "GNE_ONNXRUNTIME": str(libgne.wheel_runtime())}
    return {name: int(count) for name, count in (line.split() for line in done(*command, env=environment).splitlines())}


def test_cpp_under_sanitizers_every_damaged_bundle_ends_with_a_status(
    sanitized: Path, bundle: Path, tmp_path: Path
) -> None:
    relabel(bundle, "µ" * 20)  # which a cut leaves with half a letter at its end
    found = tally(sanitized / "torture", "bundles", bundle, tmp_path / "damaged", 2000)
    assert sum(found.values()) == 2000
    assert min(found[name] for name in ("GNE_OK", "GNE_BAD_BUNDLE", "GNE_BAD_RUNTIME")) >= 20, "all layers are reached"


@pytest.mark.parametrize("kind", [{}, {"progressive": True}, {"mode": "CMYK"}, {"orientation": 6}], ids=str)
def test_cpp_under_sanitizers_every_damaged_image_ends_with_a_status(
    sanitized: Path, bundle: Path, tmp_path: Path, kind: dict[str, object]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = kind.get("orientation", 1)
    image = solid("red", (70, 50)).convert(str(kind.get("mode", "RGB")))
    image.save(tmp_path / "image.jpg", progressive="progressive" in kind, exif=exif)
    found = tally(sanitized / "torture", "images", bundle, tmp_path / "image.jpg", 1000)
    assert sum(found.values()) == 1000
    assert min(found[name] for name in ("GNE_OK", "GNE_BAD_IMAGE")) >= 20


def test_cpp_under_sanitizers_images_of_all_shapes_are_resized_alike_with_vectors_and_without(sanitized: Path) -> None:
    pairs = [line.split() for line in done(sanitized / "resizes").splitlines()]
    assert [fast for fast, _ in pairs] == [plain for _, plain in pairs]
    assert len({fast for fast, _ in pairs}) == len(pairs) - 1 == 95, "one pixel fills both squares alike"


def test_cpp_under_sanitizers_many_threads_get_the_same_logits(sanitized: Path, bundle: Path, tmp_path: Path) -> None:
    solid("red").save(tmp_path / "image.jpg")
    environment = {**os.environ, "GNE_ONNXRUNTIME": str(libgne.wheel_runtime())}
    runs, _, _ = done(sanitized / "crowd", bundle, tmp_path / "image.jpg", 6, 2, 0.5, env=environment).split()
    assert int(runs) > 8
