"""Starting from torchvision's file, or from any other weights."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import torch
from networks import made_checkpoint, made_weights

from googlenet_edge import pretrained
from googlenet_edge.checkpoint import CheckpointInfo, build_model, write_checkpoint
from googlenet_edge.errors import CheckpointError, TrainingError
from googlenet_edge.files import sha256_bytes, sha256_file
from googlenet_edge.model import GoogLeNetConfig
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.pretrained import imagenet_file, read_start
from googlenet_edge.training_state import TrainConfig, first_state

NOWHERE = "http://127.0.0.1:9/models/googlenet-1378be20.pth"  # the discard port: nothing listens


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints" / "googlenet-1378be20.pth"


def test_imagenet_offline_says_where_to_put_the_file(torch_home: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        imagenet_file(url=NOWHERE)
    message = str(caught.value)
    assert message.startswith(f"{NOWHERE} cannot be downloaded (")
    assert message.endswith(f"fetch it on another machine and put it at {torch_home}")
    assert not torch_home.exists()


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """The address of a server that answers one request so, and is gone. After `RESET` it resets the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(answer.removesuffix(RESET))
                if answer.endswith(RESET):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        thread = Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/googlenet-1378be20.pth"
        thread.join()


def test_imagenet_is_downloaded_once(torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size, shown = (1 << 20) + 5, list[tuple[int, int]]()
    monkeypatch.setattr(pretrained, "SHA256_START", sha256_bytes(bytes(size))[:8])
    with answering(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)) as url:
        assert imagenet_file(url=url, progress=lambda *each: shown.append(each)) == torch_home
    assert (torch_home.read_bytes(), shown) == (bytes(size), [(1 << 20, size), (size, size)])
    assert imagenet_file(url=url) == torch_home, "the server is gone"


RESET = b"RESET"
ANOTHER = "its SHA-256 begins with .*, expected 1378be20; the connection may have broken, try again"
BROKEN = r"^http://127\S+ cannot be downloaded \(.*\S\); fetch it on another machine and put it at \S+$"


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nwrong", ANOTHER),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 500\r\n\r\nwrong", ANOTHER),
        (b"HTTP/1.0 200 OK\r\n\r\nwrong", ANOTHER),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n500\r\nwrong", BROKEN),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", BROKEN),
        (b"SSH-2.0-OpenSSH_9.2\r\n", BROKEN),
        (RESET, BROKEN),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 500\r\n\r\nwrong" + RESET, BROKEN),
    ],
    ids=[
        *("another file", "the end is missing", "of any length", "a piece is missing", "no file", "no HTTP", "a reset"),
        "a reset within",
    ],
)
def test_imagenet_keeps_no_download_that_is_not_the_file(torch_home: Path, answer: bytes, sentence: str) -> None:
    with answering(answer) as url, pytest.raises(CheckpointError, match=sentence):
        imagenet_file(url=url)
    assert list(torch_home.parent.glob("*")) == []


def test_imagenet_where_no_download_can_be_kept_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match=r"cannot write \S+: Not a directory; name another folder in TORCH_HOME"):
        imagenet_file(url=(tmp_path / "file").as_uri())


def test_imagenet_refuses_another_file_under_the_name(torch_home: Path) -> None:
    torch_home.parent.mkdir(parents=True)
    torch_home.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="its SHA-256 begins with .*, expected 1378be20; remove it"):
        imagenet_file(url=NOWHERE)


@pytest.mark.parametrize(
    ("name", "missing", "true_5x5"),
    [("googlenet.pth", "num_batches", False), ("small.pt", "aux", True)],
    ids=["without the counters of batches, as old files are", "without auxiliary heads, with the paper's kernels"],
)
def test_pth_of_torchvision_becomes_a_start(name: str, missing: str, true_5x5: bool, tmp_path: Path) -> None:
    weights = made_weights(GoogLeNetConfig(7, true_5x5=true_5x5), seed=3)
    torch.save({each: tensor for each, tensor in weights.items() if missing not in each}, tmp_path / name)
    start = read_start(str(tmp_path / name))
    assert (len(start.info.class_names), start.info.true_5x5) == (7, true_5x5)
    assert torch.equal(build_model(start).fc.weight, weights["fc.weight"])
    assert start.sha256 == sha256_file(tmp_path / name)


@pytest.mark.parametrize(
    ("odd", "sentence"),
    [
        (torch.Tensor.to_sparse, "has fc.bias as torch.float32, .*sparse_coo.*, not as a plain"),
        (lambda tensor: tensor.to("meta"), "has fc.bias as torch.float32, .*meta.*, not as a plain"),
        (lambda tensor: tensor * torch.nan, "has NaN or infinity in fc.bias; its training failed"),
    ],
)
def test_pth_of_tensors_without_plain_numbers_is_refused(
    odd: Callable[[torch.Tensor], torch.Tensor], sentence: str, tmp_path: Path
) -> None:
    weights = made_weights(GoogLeNetConfig(7), seed=3)
    torch.save({**weights, "fc.bias": odd(weights["fc.bias"])}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=rf"odd\.pth {sentence}"):
        read_start(str(tmp_path / "odd.pth"))


def test_pth_of_millions_of_classes_is_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(1).expand(100_001, 1024)}, tmp_path / "many.pth")
    with pytest.raises(
        CheckpointError, match=r"many\.pth has 100001 classes where at most 100000 are expected; use an"
    ):
        read_start(str(tmp_path / "many.pth"))


def test_pth_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(10, 512), "layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match="resnet.pth is of another architecture: conv1.conv.weight is missing"):
        read_start(str(tmp_path / "resnet.pth"))


def test_start_keeps_all_but_the_classifiers_where_classes_differ(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c.safetensors", made_checkpoint(classes=7))
    start = read_start(str(tmp_path / "c.safetensors"))
    info = CheckpointInfo(("a", "b"), Preprocess(resize=32, crop=32))
    state = first_state(info, TrainConfig(), images_sha256="", start=start)
    new = {name for name, tensor in state.weights.items() if not torch.equal(tensor, start.weights[name])}
    assert new == {f"{head}.{part}" for head in ("fc", "aux1.fc2", "aux2.fc2") for part in ("weight", "bias")}


def test_start_with_another_kernel_is_refused_rather_than_made_random() -> None:
    start = made_checkpoint()
    with pytest.raises(TrainingError, match="have 3×3 kernels in the third branch; change --true-5x5"):
        first_state(replace(start.info, true_5x5=True), TrainConfig(), images_sha256="", start=start)


def test_start_of_a_pruned_checkpoint_gets_new_auxiliary_heads() -> None:
    start = made_checkpoint()
    kept = {name: tensor for name, tensor in start.weights.items() if not name.startswith("aux")}
    pruned = replace(start, weights=kept)
    state = first_state(start.info, TrainConfig(), images_sha256="", start=pruned)
    assert state.weights.keys() == start.weights.keys()
    assert torch.equal(state.weights["conv1.conv.weight"], start.weights["conv1.conv.weight"])
