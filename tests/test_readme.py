"""Runs the README and docs: every ```console and ```python block does what it says, in the order in which it stands.

The blocks of one page share a folder, in which the little training of `tiny_run` already stands, and its Python blocks
share their variables. In a console block the lines after ``$ `` are run by bash; the others are output, for the reader.
A block that cannot be run here says why in a comment on the line above it: ``<!-- not run: needs a Jetson -->``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]

FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+?) -->\n)?"
    r"```(?P<language>console|python)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
ANY_CODE_FENCE = re.compile(r"^[ >]*(?:```|~~~)[ ]*(?:console|shell|bash|sh|python|py|pycon)\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, its text, and the number of the line on which the text begins."""

    language: str
    text: str
    line: int
    reason_not_to_run: str | None


def read_blocks(page: str) -> list[Block]:
    return [
        Block(found["language"], found["text"], page.count("\n", 0, found.start("text")) + 1, found["reason"])
        for found in FENCE.finditer(page)
    ]


def commands_of(console: str) -> str:
    """The script of a console block: lines after ``$ ``, with those that continue them."""
    script: list[str] = []
    for line in console.splitlines():
        if line.startswith("$ "):
            script.append(line[2:])
        elif script and script[-1].endswith("\\"):
            script.append(line)
    return "\n".join(script)


def run_console(block: Block, where: str, folder: Path) -> None:
    script = commands_of(block.text)
    assert script, f"{where}: a console block without a line that starts with '$ '"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    shell = ["bash", "-euxo", "pipefail", "-c", script]  # -x: the message shows which line failed
    done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{where} ends with {done.returncode}:\n{done.stdout}\n{done.stderr}"


def run_page(page: Path, folder: Path) -> int:
    """Runs all blocks of a page in ``folder``; the number of those run."""
    variables: dict[str, object] = {}
    blocks = [block for block in read_blocks(page.read_text()) if block.reason_not_to_run is None]
    for block in blocks:
        where = f"{page.name}:{block.line}"
        if block.language == "console":
            run_console(block, where, folder)
        else:  # the empty lines make a traceback name the line of the page
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), variables)
    return len(blocks)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_readme_blocks_run(page: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "work"
    shutil.copytree(tiny_run, folder)
    with (folder / "gnet-edge.toml").open("a") as settings:
        settings.write("rounds = 6\ncalibration_images = 24\n")  # or each bench takes a minute where others work, too
    monkeypatch.chdir(folder)
    run_page(page, folder)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_readme_has_no_code_that_is_never_run(page: Path) -> None:
    text = page.read_text()
    assert len(ANY_CODE_FENCE.findall(text)) == len(read_blocks(text)), f"{page}: write code as ```console or ```python"


def heading_names(page: str) -> set[str]:
    """What a link calls the headings of a page, as GitHub does; signs such as × are left to themselves."""
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in re.findall(r"^#+ (.+)$", page, re.M)}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "benchmarks" / "README.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_readme_links_lead_to_files_and_headings(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]
    for file, _, heading in (link.partition("#") for link in links):
        there = page.parent / file if file else page
        assert there.exists(), file
        assert not heading or heading in heading_names(there.read_text()), f"{file}#{heading}"


SAMPLE = """
# A page

```console
$ printf 'one\\n' > made.txt
$ cat made.txt \\
    made.txt
one
```

```python
lines = open("made.txt").read().split()
```

```python
assert lines == ["one"]
```

<!-- not run: needs a rocket -->
```console
$ launch
```

```text
not a block to run
```
"""


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "sample.md"


def test_readme_blocks_share_folder_and_variables_in_order(sample: Path) -> None:
    sample.write_text(SAMPLE)
    assert run_page(sample, sample.parent) == 3


def test_readme_block_is_left_out_only_with_a_reason(sample: Path) -> None:
    assert [block.reason_not_to_run for block in read_blocks(SAMPLE)] == [None, None, None, "needs a rocket"]
    sample.write_text(SAMPLE.replace("<!-- not run: needs a rocket -->", "<!-- not run: -->"))
    with pytest.raises(AssertionError, match="launch: command not found"):
        run_page(sample, sample.parent)


def test_readme_console_block_stops_at_the_first_failure(sample: Path) -> None:
    sample.write_text("\n```console\n$ false\n$ touch reached\n```\n")
    with pytest.raises(AssertionError, match=r"sample\.md:3 ends with 1"):
        run_page(sample, sample.parent)
    assert not (sample.parent / "reached").exists()


def test_readme_python_block_fails_on_the_line_of_the_page(sample: Path) -> None:
    sample.write_text("# A page\n\n```python\nx = 1\nassert x == 2\n```\n")
    with pytest.raises(AssertionError) as failure:
        run_page(sample, sample.parent)
    assert (failure.traceback[-1].path, failure.traceback[-1].lineno) == (sample, 4)


def test_readme_console_block_without_a_command_is_refused(sample: Path) -> None:
    sample.write_text("```console\ngnet-edge build\n```\n")
    with pytest.raises(AssertionError, match=r"sample\.md:2: a console block without a line"):
        run_page(sample, sample.parent)
